//! Steps about load balancers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::action::Named;
use crate::client::Caller;
use crate::cloud::{LoadBalancer, LoadBalancerDetail};
use crate::provider::Shared;
use crate::record::{TAG_APPLIED, TAG_RETIRES};
use crate::spec::{self, Tags};

use super::known::{change_tags, defaults};
use super::{Done, Failure, gone};

impl Shared {
    pub(super) async fn set_security_groups(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        groups: &[Named],
        enforce_on_private_link: Option<bool>,
    ) -> Done {
        let arn = self.load_balancer(load_balancer)?;
        let ids = self.group_ids(groups)?;
        let result = self
            .client
            .set_security_groups(caller, &arn, &ids, enforce_on_private_link)
            .await;
        self.about_groups(caller, self.about(&arn, result)).await?;
        self.wrote(&arn, |is| {
            is.security_groups = ids.into_iter().collect();
            if enforce_on_private_link.is_some() {
                is.enforce_on_private_link = enforce_on_private_link;
            }
        });
        Ok(())
    }

    pub(super) async fn set_subnets(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        spec: &spec::LoadBalancer,
    ) -> Done {
        let arn = self.load_balancer(load_balancer)?;
        let result = self.client.set_subnets(caller, &arn, spec).await;
        self.about(&arn, result)?;
        self.wrote(&arn, |is| {
            is.subnets.clone_from(&spec.subnets);
            is.ip_address_type = spec.ip_address_type;
            is.ipv6_source_nat = spec.ipv6_source_nat.or(is.ipv6_source_nat);
        });
        Ok(())
    }

    pub(super) async fn set_ip_address_type(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        value: spec::IpAddressType,
    ) -> Done {
        let arn = self.load_balancer(load_balancer)?;
        let result = self.client.set_ip_address_type(caller, &arn, value).await;
        self.about(&arn, result)?;
        self.wrote(&arn, |is| is.ip_address_type = value);
        Ok(())
    }

    pub(super) async fn set_load_balancer_attributes(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        attributes: &BTreeMap<String, String>,
    ) -> Done {
        let arn = self.load_balancer(load_balancer)?;
        let result = self
            .client
            .modify_load_balancer_attributes(caller, &arn, attributes)
            .await;
        self.about(&arn, result)?;
        self.memory().protected.remove(&arn);
        self.detail(&arn, |detail| detail.attributes.extend(attributes.clone()));
        Ok(())
    }

    pub(super) async fn set_capacity(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        units: Option<u32>,
    ) -> Done {
        let arn = self.load_balancer(load_balancer)?;
        let result = match self.client.modify_capacity(caller, &arn, units).await {
            Err(error) if error.is(&["PriorRequestNotComplete"]) => {
                return Err(Failure::Held(
                    self.tuning.hold_at_most,
                    format!("{error}; it is tried again"),
                ));
            }
            result => result,
        };
        self.about(&arn, result)?;
        self.detail(&arn, |detail| detail.capacity_units = units);
        Ok(())
    }

    /// Writes down when a load balancer goes.
    pub(super) async fn retire(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        after: Duration,
    ) -> Done {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let at = now.unwrap_or_default().as_secs() + after.as_secs();
        let set = Tags::from([(TAG_RETIRES.to_owned(), at.to_string())]);
        self.tag_load_balancer(caller, load_balancer, &set, &BTreeSet::new())
            .await
    }

    fn wrote(&self, arn: &str, change: impl FnOnce(&mut LoadBalancer)) {
        self.account()
            .load_balancers
            .wrote(arn, Instant::now(), change);
    }

    pub(super) async fn create_load_balancer(
        &self,
        caller: Caller<'_>,
        uid: &str,
        spec: &spec::LoadBalancer,
        groups: Option<&[Named]>,
    ) -> Done {
        let what = format!("name {:?}", spec.name);
        self.held(&spec.name, &what)?;
        let ids = groups.map(|groups| self.group_ids(groups)).transpose()?;
        let began = Instant::now();
        let made = self
            .client
            .create_load_balancer(caller, spec, ids.as_deref())
            .await;
        let made = match made {
            Err(error) if error.is(&["DuplicateLoadBalancerName"]) => {
                return Err(self.named_by_another(caller, &spec.name, &what).await?);
            }
            made => {
                self.about_groups(caller, made.map_err(Failure::from))
                    .await?
            }
        };
        // With a name and settings like these AWS returns what is there already, whoever
        // made it: its tags tell.
        let tags = self.tags_of(caller, &made.arn).await?;
        let new = !tags.contains_key(TAG_APPLIED) && began >= self.sure_after(uid);
        let mut account = self.account();
        if new {
            account.load_balancer_details.insert(
                made.arn.clone(),
                LoadBalancerDetail {
                    attributes: defaults(&spec.attributes),
                    ..LoadBalancerDetail::default()
                },
            );
        }
        account.polled = Some(Instant::now());
        let mut made = made;
        made.tags = Some(tags);
        account
            .load_balancers
            .insert(made.arn.clone(), made, Instant::now());
        self.count(&account);
        drop(account);
        self.memory().held.remove(&spec.name);
        Ok(())
    }

    /// Another load balancer has the name: found, it is planned with; else AWS is still
    /// at work on one that was deleted.
    pub(super) async fn named_by_another(
        &self,
        caller: Caller<'_>,
        name: &str,
        what: &str,
    ) -> Result<Failure, Failure> {
        let found = match self.client.load_balancers(caller, &[], Some(name)).await {
            Err(error) if error.not_found() => Vec::new(),
            found => found?,
        };
        let Some(mut is) = found.into_iter().next() else {
            return Ok(self.hold(name, what, self.tuning.hold / 5));
        };
        is.tags = Some(self.tags_of(caller, &is.arn).await?);
        let mut account = self.account();
        account
            .load_balancers
            .insert(is.arn.clone(), is, Instant::now());
        Ok(Failure::Replan(format!("{what} is taken")))
    }

    pub(super) async fn delete_load_balancer(&self, caller: Caller<'_>, named: &Named) -> Done {
        let arn = self.load_balancer(named)?;
        match gone(self.client.delete_load_balancer(caller, &arn).await) {
            Ok(()) => {}
            Err(error) if error.is(&["OperationNotPermitted"]) => {
                self.memory().protected.insert(arn.clone());
                return Err(Failure::Failed(
                    "DeletionProtected",
                    format!(
                        "{error}; if load balancer {named} may go, take its protection off: aws \
                         elbv2 modify-load-balancer-attributes --load-balancer-arn {arn} \
                         --attributes Key=deletion_protection.enabled,Value=false"
                    ),
                ));
            }
            Err(error) => return Err(error.into()),
        }
        self.memory().protected.remove(&arn);
        let now = Instant::now();
        let mut account = self.account();
        account.load_balancers.remove(&arn, now);
        account.load_balancer_details.remove(&arn);
        let freed: Vec<String> = account
            .target_groups
            .values()
            .filter(|group| group.load_balancers.contains(&arn))
            .map(|group| group.arn.clone())
            .collect();
        for group in freed {
            account.target_groups.wrote(&group, now, |is| {
                is.load_balancers.remove(&arn);
            });
        }
        self.count(&account);
        Ok(())
    }

    pub(super) async fn tag_load_balancer(
        &self,
        caller: Caller<'_>,
        named: &Named,
        set: &Tags,
        unset: &BTreeSet<String>,
    ) -> Done {
        let arn = self.load_balancer(named)?;
        self.write_tags(caller, &arn, set, unset).await?;
        self.account()
            .load_balancers
            .wrote(&arn, Instant::now(), |is| {
                change_tags(is.tags.get_or_insert_default(), set, unset);
            });
        Ok(())
    }

    /// Sets and removes tags of a load balancer or target group in AWS.
    pub(super) async fn write_tags(
        &self,
        caller: Caller<'_>,
        arn: &str,
        set: &Tags,
        unset: &BTreeSet<String>,
    ) -> Done {
        if !set.is_empty() {
            self.about(arn, self.client.add_tags(caller, arn, set).await)?;
        }
        if !unset.is_empty() {
            let keys: Vec<String> = unset.iter().cloned().collect();
            self.about(arn, self.client.remove_tags(caller, arn, &keys).await)?;
        }
        Ok(())
    }
}
