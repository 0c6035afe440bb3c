//! Steps about target groups and what is registered in them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::action::Named;
use crate::client::Caller;
use crate::cloud::{HealthCheck, TargetGroupDetail};
use crate::provider::Shared;
use crate::spec::{self, Tags, Target};

use super::known::{change_tags, defaults};
use super::{Done, Failure, gone};

impl Shared {
    pub(super) async fn set_health_check(
        &self,
        caller: Caller<'_>,
        group: &Named,
        check: &HealthCheck,
    ) -> Done {
        let arn = self.target_group(group)?;
        let result = self.client.modify_target_group(caller, &arn, check).await;
        self.about(&arn, result)?;
        self.account()
            .target_groups
            .wrote(&arn, Instant::now(), |is| is.health_check = check.clone());
        Ok(())
    }

    pub(super) async fn set_target_group_attributes(
        &self,
        caller: Caller<'_>,
        group: &Named,
        attributes: &BTreeMap<String, String>,
    ) -> Done {
        let arn = self.target_group(group)?;
        let result = self
            .client
            .modify_target_group_attributes(caller, &arn, attributes)
            .await;
        self.about(&arn, result)?;
        self.group_detail(&arn, |detail| {
            if let Some(known) = &mut detail.attributes {
                known.extend(attributes.clone());
            }
        });
        Ok(())
    }

    pub(super) async fn register(
        &self,
        caller: Caller<'_>,
        group: &Named,
        targets: &[Target],
    ) -> Done {
        let arn = self.target_group(group)?;
        let result = self.client.register_targets(caller, &arn, targets).await;
        self.about(&arn, result)?;
        self.memory().registered = Some(Instant::now());
        self.group_detail(&arn, |detail| {
            if let Some(known) = &mut detail.targets {
                known.extend(targets.iter().cloned());
            }
        });
        Ok(())
    }

    pub(super) async fn create_target_group(
        &self,
        caller: Caller<'_>,
        uid: &str,
        vpc_id: &str,
        spec: &spec::TargetGroup,
    ) -> Done {
        let began = Instant::now();
        let made = match self.client.create_target_group(caller, vpc_id, spec).await {
            Err(error) if error.is(&["DuplicateTargetGroupName"]) => {
                let found = self
                    .client
                    .target_groups(caller, None, Some(&spec.name))
                    .await?;
                let Some(mut group) = found.into_iter().next() else {
                    return Err(Failure::Held(
                        self.tuning.hold / 5,
                        format!(
                            "AWS has target group {:?} but does not show it yet",
                            spec.name
                        ),
                    ));
                };
                group.tags = Some(self.tags_of(caller, &group.arn).await?);
                self.account()
                    .target_groups
                    .insert(group.arn.clone(), group, Instant::now());
                return Err(Failure::Replan(format!("name {:?} is taken", spec.name)));
            }
            made => made?,
        };
        let new = made.load_balancers.is_empty() && began >= self.sure_after(uid);
        let mut made = made;
        let tags = if new {
            spec.tags.clone()
        } else {
            // It may have been there.
            self.tags_of(caller, &made.arn).await?
        };
        made.tags = Some(tags);
        made.health_check = HealthCheck::from(&spec.health_check);
        let mut account = self.account();
        if new {
            account.target_group_details.insert(
                made.arn.clone(),
                TargetGroupDetail {
                    attributes: Some(defaults(&spec.attributes)),
                    targets: Some(BTreeSet::new()),
                },
            );
        }
        account
            .target_groups
            .insert(made.arn.clone(), made, Instant::now());
        Ok(())
    }

    pub(super) async fn tag_target_group(
        &self,
        caller: Caller<'_>,
        named: &Named,
        set: &Tags,
        unset: &BTreeSet<String>,
    ) -> Done {
        let arn = self.target_group(named)?;
        self.write_tags(caller, &arn, set, unset).await?;
        self.account()
            .target_groups
            .wrote(&arn, Instant::now(), |is| {
                change_tags(is.tags.get_or_insert_default(), set, unset);
            });
        Ok(())
    }

    pub(super) async fn deregister(
        &self,
        caller: Caller<'_>,
        group: &Named,
        targets: &[Target],
    ) -> Done {
        let arn = self.target_group(group)?;
        match self.client.deregister_targets(caller, &arn, targets).await {
            // An instance that is gone is registered no more.
            Err(error) if error.is(&["InvalidTarget"]) => {}
            result => self.about(&arn, result)?,
        }
        self.memory().registered = Some(Instant::now());
        self.group_detail(&arn, |detail| {
            if let Some(known) = &mut detail.targets {
                known.retain(|target| !targets.contains(target));
            }
        });
        Ok(())
    }

    pub(super) async fn delete_target_group(&self, caller: Caller<'_>, group: &Named) -> Done {
        let arn = self.target_group(group)?;
        let what = format!("target group {group}");
        self.held(&arn, &what)?;
        match gone(self.client.delete_target_group(caller, &arn).await) {
            Ok(()) => {
                self.memory().held.remove(&arn);
                let mut account = self.account();
                account.target_groups.remove(&arn, Instant::now());
                account.target_group_details.remove(&arn);
                Ok(())
            }
            Err(error) if error.is(&["ResourceInUse"]) => {
                Err(self.hold(&arn, &what, self.tuning.hold / 5))
            }
            Err(error) => Err(error.into()),
        }
    }
}
