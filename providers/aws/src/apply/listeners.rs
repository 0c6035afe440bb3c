//! Steps about listeners.

use std::collections::{BTreeMap, BTreeSet};

use crate::action::Named;
use crate::client::{Caller, ListenerSettings};
use crate::provider::Shared;
use crate::spec::{Listener, NlbProtocol};

use super::known::defaults;
use super::{Done, Failure, gone};

/// How AWS refuses several target groups, or their weights.
const WEIGHTLESS: &[&str] = &[
    "ValidationError",
    "InvalidConfigurationRequest",
    "InvalidLoadBalancerAction",
    "UnsupportedOperation",
    "UnsupportedFeature",
    "OperationNotPermitted",
];

impl Shared {
    pub(super) fn settings(
        &self,
        spec: &Listener,
        groups: &[Named],
    ) -> Result<ListenerSettings, Failure> {
        let arns = groups.iter().map(|group| self.target_group(group));
        let arns: Vec<String> = arns.collect::<Result<_, _>>()?;
        let weights = spec.forward.targets.iter().map(|target| target.weight);
        Ok(ListenerSettings {
            port: spec.port,
            protocol: spec.protocol.as_str().to_owned(),
            certificate: spec.certificates.first().cloned(),
            ssl_policy: spec.ssl_policy.clone(),
            alpn_policy: spec.alpn_policy.clone(),
            forward: arns.into_iter().zip(weights).collect(),
            sticky: spec.forward.sticky,
        })
    }

    pub(super) async fn create_listener(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        spec: &Listener,
        groups: &[Named],
    ) -> Done {
        let arn = self.load_balancer(load_balancer)?;
        let settings = self.settings(spec, groups)?;
        let made = self
            .client
            .create_listener(caller, &arn, &settings, &spec.tags)
            .await;
        let mut made = match made {
            Err(error) if error.is(&["DuplicateListener"]) => {
                self.account().load_balancer_details.remove(&arn);
                return Err(Failure::Replan(error.to_string()));
            }
            made => self.about(&arn, made)?,
        };
        made.attributes = defaults(&spec.attributes);
        fill(&mut made, &settings);
        self.detail(&arn, |detail| {
            detail.listeners.insert(spec.port, made);
        });
        self.forwards(&arn);
        Ok(())
    }

    pub(super) async fn modify_listener(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        listener: &str,
        spec: &Listener,
        groups: &[Named],
    ) -> Done {
        let arn = self.load_balancer(load_balancer)?;
        let settings = self.settings(spec, groups)?;
        let result = self
            .client
            .modify_listener(caller, listener, &settings)
            .await;
        self.about(&arn, result)?;
        self.known_listener(&arn, spec.port, |is| {
            if is.protocol != settings.protocol {
                is.attributes = defaults(&spec.attributes);
            }
            if settings.protocol != NlbProtocol::Tls.as_str() {
                is.more_certificates.clear();
            }
            is.protocol.clone_from(&settings.protocol);
            is.forward.clear();
            fill(is, &settings);
        });
        self.forwards(&arn);
        Ok(())
    }

    /// Regions of some partitions know no weights behind a Network Load Balancer: there
    /// the listener changes at once.
    pub(super) async fn hand_over(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        listener: &str,
        spec: &Listener,
        groups: &[Named],
    ) -> Done {
        let done = self
            .modify_listener(caller, load_balancer, listener, spec, groups)
            .await;
        match done {
            Err(Failure::Call(error)) if error.is(WEIGHTLESS) => {
                tracing::warn!(
                    listener,
                    %error,
                    "AWS takes no weights here; the listener changes at once"
                );
                self.memory().unweighted.insert(listener.to_owned());
                Err(Failure::Replan(error.to_string()))
            }
            done => done,
        }
    }

    pub(super) async fn set_listener_attributes(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        port: u16,
        attributes: &BTreeMap<String, String>,
    ) -> Done {
        let (arn, listener) = self.listener(load_balancer, port)?;
        let result = self
            .client
            .modify_listener_attributes(caller, &listener, attributes)
            .await;
        self.about(&arn, result)?;
        self.known_listener(&arn, port, |is| is.attributes.extend(attributes.clone()));
        Ok(())
    }

    pub(super) async fn add_certificates(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        port: u16,
        certificates: &BTreeSet<String>,
    ) -> Done {
        let (arn, listener) = self.listener(load_balancer, port)?;
        let result = self
            .client
            .add_certificates(caller, &listener, certificates)
            .await;
        self.about(&arn, result)?;
        self.known_listener(&arn, port, |is| {
            is.more_certificates.extend(certificates.iter().cloned());
        });
        Ok(())
    }

    pub(super) async fn remove_certificates(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        port: u16,
        certificates: &BTreeSet<String>,
    ) -> Done {
        let (arn, listener) = self.listener(load_balancer, port)?;
        let result = self
            .client
            .remove_certificates(caller, &listener, certificates)
            .await;
        self.about(&arn, result)?;
        self.known_listener(&arn, port, |is| {
            is.more_certificates
                .retain(|arn| !certificates.contains(arn));
        });
        Ok(())
    }

    pub(super) async fn delete_listener(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        listener: &str,
        port: u16,
    ) -> Done {
        let of = self.load_balancer(load_balancer)?;
        gone(self.client.delete_listener(caller, listener).await)?;
        self.detail(&of, |detail| {
            detail.listeners.remove(&port);
        });
        self.forwards(&of);
        Ok(())
    }
}

/// What a listener has after it was told `settings`.
fn fill(is: &mut crate::cloud::Listener, settings: &ListenerSettings) {
    is.certificate.clone_from(&settings.certificate);
    is.ssl_policy.clone_from(&settings.ssl_policy);
    is.alpn_policy.clone_from(&settings.alpn_policy);
    is.sticky = settings.sticky;
    let many = settings.forward.len() > 1;
    is.forward = settings
        .forward
        .iter()
        .map(|(arn, weight)| (arn.clone(), many.then(|| i32::from(weight.unwrap_or(1)))))
        .collect();
}
