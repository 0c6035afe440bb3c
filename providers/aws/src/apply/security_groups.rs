//! Steps about security groups.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::action::Named;
use crate::client::{CallError, Caller};
use crate::cloud::{Ingress, IngressSource, SecurityGroup};
use crate::provider::Shared;
use crate::record::TAG_NODES;
use crate::spec::Tags;

use super::known::change_tags;
use super::{Done, Failure, gone};

/// What rules of Herald's say of themselves in the console.
const RULE: &str = "herald.dev";
/// Value of the nodes' record while targets are being changed.
pub(super) const CHANGING: &str = "changing";

impl Shared {
    /// Of many Services that begin together one makes it.
    pub(super) async fn create_backend_group(
        &self,
        caller: Caller<'_>,
        vpc_id: &str,
        name: &str,
        tags: &Tags,
    ) -> Done {
        let _alone = self.looking.lock().await;
        if self
            .account()
            .backend_group(&self.settings.cluster_id)
            .is_some()
        {
            return Ok(());
        }
        let description = "Herald: lets load balancers reach nodes and pods";
        self.create_group(caller, vpc_id, name, description, tags)
            .await
    }

    pub(super) async fn authorize_backend(
        &self,
        caller: Caller<'_>,
        group: &Named,
        ranges: &BTreeSet<(String, i32, i32)>,
    ) -> Done {
        let backend = {
            let account = self.account();
            let backend = account.backend_group(&self.settings.cluster_id);
            backend.map(|backend| backend.id.clone())
        };
        let Some(backend) = backend else {
            return Err(Failure::Replan("the shared security group is gone".into()));
        };
        let rules = ranges
            .iter()
            .map(|(protocol, from, to)| Ingress {
                protocol: protocol.clone(),
                from: *from,
                to: *to,
                source: IngressSource::Group(backend.clone()),
            })
            .collect();
        self.authorize(caller, group, &rules).await
    }

    /// Of many Services that see the same change of nodes one writes the record.
    pub(super) async fn write_nodes(
        &self,
        caller: Caller<'_>,
        group: &Named,
        record: &str,
    ) -> Done {
        let _alone = self.looking.lock().await;
        if self.nodes_record(group).as_deref() == Some(record) {
            return Ok(());
        }
        let set = Tags::from([(TAG_NODES.to_owned(), record.to_owned())]);
        self.tag_group(caller, group, &set, &BTreeSet::new()).await
    }

    pub(super) async fn create_group(
        &self,
        caller: Caller<'_>,
        vpc_id: &str,
        name: &str,
        description: &str,
        tags: &Tags,
    ) -> Done {
        let made = self
            .client
            .create_security_group(caller, vpc_id, name, description, tags)
            .await;
        let group = match made {
            Ok(id) => SecurityGroup {
                id,
                name: name.to_owned(),
                vpc_id: vpc_id.to_owned(),
                tags: tags.clone(),
                ingress: BTreeSet::new(),
            },
            Err(error) if error.is(&["InvalidGroup.Duplicate"]) => {
                let filter = [
                    ("group-name", vec![name.to_owned()]),
                    ("vpc-id", vec![vpc_id.to_owned()]),
                ];
                let found = self.client.security_groups(caller, &filter).await?;
                let Some(found) = found.into_iter().next() else {
                    return Err(Failure::Held(
                        self.tuning.hold / 5,
                        format!("AWS has security group {name:?} but does not show it yet"),
                    ));
                };
                let ours = ["herald.dev/cluster", "herald.dev/service-uid"]
                    .iter()
                    .all(|tag| found.tags.get(*tag) == tags.get(*tag));
                if !ours {
                    return Err(Failure::Failed(
                        "NameTaken",
                        format!(
                            "name {name:?} is taken by security group {}, which does not bear \
                             this Service's tags and is left alone; delete it in AWS",
                            found.id
                        ),
                    ));
                }
                found
            }
            Err(error) => return Err(error.into()),
        };
        self.account()
            .security_groups
            .insert(group.id.clone(), group, Instant::now());
        Ok(())
    }

    /// Adds rules; those that are there already are as good as new.
    pub(super) async fn authorize(
        &self,
        caller: Caller<'_>,
        group: &Named,
        rules: &BTreeSet<Ingress>,
    ) -> Done {
        let id = self.group(group)?;
        let result = self.client.authorize(caller, &id, rules, RULE).await;
        let result = match result {
            Err(error) if error.is(&["InvalidPermission.Duplicate"]) => {
                for rule in rules {
                    let one = BTreeSet::from([rule.clone()]);
                    match self.client.authorize(caller, &id, &one, RULE).await {
                        Err(error) if error.is(&["InvalidPermission.Duplicate"]) => {}
                        result => result?,
                    }
                }
                Ok(())
            }
            result => result,
        };
        self.group_gone(&id, result)?;
        self.rules(&id, |known| known.extend(rules.iter().cloned()));
        Ok(())
    }

    /// Takes rules away; those that are gone already are as good.
    pub(super) async fn revoke(
        &self,
        caller: Caller<'_>,
        group: &Named,
        rules: &BTreeSet<Ingress>,
    ) -> Done {
        let id = self.group(group)?;
        match self.client.revoke(caller, &id, rules).await {
            Err(error) if error.is(&["InvalidPermission.NotFound"]) => {
                for rule in rules {
                    let one = BTreeSet::from([rule.clone()]);
                    match self.client.revoke(caller, &id, &one).await {
                        Err(error) if error.is(&["InvalidPermission.NotFound"]) => {}
                        result => result?,
                    }
                }
            }
            Err(error) if error.not_found() => {}
            result => result?,
        }
        self.rules(&id, |known| known.retain(|rule| !rules.contains(rule)));
        Ok(())
    }

    pub(super) fn group_gone<T>(
        &self,
        id: &str,
        result: Result<T, CallError>,
    ) -> Result<T, Failure> {
        match result {
            Err(error) if error.is(&["InvalidGroup.NotFound", "InvalidGroupId.NotFound"]) => {
                let now = Instant::now();
                let mut account = self.account();
                account.security_groups.remove(id, now);
                account.node_groups.remove(id, now);
                Err(Failure::Replan(error.to_string()))
            }
            result => Ok(result?),
        }
    }

    pub(super) fn rules(&self, id: &str, change: impl Fn(&mut BTreeSet<Ingress>)) {
        let now = Instant::now();
        let mut account = self.account();
        account
            .security_groups
            .wrote(id, now, |group| change(&mut group.ingress));
        account
            .node_groups
            .wrote(id, now, |group| change(&mut group.ingress));
    }

    pub(super) async fn tag_group(
        &self,
        caller: Caller<'_>,
        group: &Named,
        set: &Tags,
        unset: &BTreeSet<String>,
    ) -> Done {
        let id = self.group(group)?;
        if !set.is_empty() {
            let result = self.client.tag_group(caller, &id, set).await;
            self.group_gone(&id, result)?;
        }
        if !unset.is_empty() {
            let keys: Vec<String> = unset.iter().cloned().collect();
            let result = self.client.untag_group(caller, &id, &keys).await;
            self.group_gone(&id, result)?;
        }
        let now = Instant::now();
        let known = self.account().security_groups.get(&id).is_some();
        if known {
            self.account()
                .security_groups
                .wrote(&id, now, |group| change_tags(&mut group.tags, set, unset));
        } else {
            // It has just become the Service's.
            let filter = [("group-id", vec![id.clone()])];
            let found = self.client.security_groups(caller, &filter).await?;
            for mut group in found {
                change_tags(&mut group.tags, set, unset);
                self.account()
                    .security_groups
                    .insert(group.id.clone(), group, now);
            }
        }
        Ok(())
    }

    /// AWS keeps a load balancer's network interfaces for a while after it is gone, and
    /// its groups with them. That is waited for, longer each time.
    pub(super) async fn delete_group(&self, caller: Caller<'_>, group: &Named) -> Done {
        let id = self.group(group)?;
        let what = format!("security group {group}");
        self.held(&id, &what)?;
        match gone(self.client.delete_security_group(caller, &id).await) {
            Ok(()) => {
                self.memory().held.remove(&id);
                self.account().security_groups.remove(&id, Instant::now());
                Ok(())
            }
            Err(error) if error.is(&["DependencyViolation", "ResourceInUse"]) => {
                Err(self.hold(&id, &what, self.tuning.hold))
            }
            Err(error) => Err(error.into()),
        }
    }
}
