//! What the Service's status says about its load balancer.

use std::time::Duration;

use herald_core::{Ingress, IngressPoint, IpMode};
use herald_provider::Status;

use crate::plan::{Observed, RETRY_FAILED_AFTER_MILLIS};
use crate::wire::{AddressType, LoadBalancer, LoadBalancerState};

/// How often to look while the cloud is at work.
const RECHECK: Duration = Duration::from_millis(500);

/// The status when there is nothing left to do.
pub fn status(observed: &Observed) -> Status {
    match observed {
        Observed::Ours(load_balancer) => of(load_balancer),
        Observed::Nothing | Observed::Foreign { .. } => Status {
            ingress: Vec::new(),
            ready: false,
            reason: "NotFound",
            message: "the Service has no load balancer in the cloud".to_owned(),
            recheck: None,
            pods: Vec::new(),
        },
    }
}

fn of(is: &LoadBalancer) -> Status {
    let name = &is.name;
    let because = match &is.state_reason {
        Some(reason) => format!(": {reason}"),
        None => String::new(),
    };
    let (ready, reason, message, recheck) = match is.state {
        LoadBalancerState::Active if is.targets.is_empty() => (
            false,
            "NoTargets",
            format!(
                "load balancer {name:?} has no targets: no node with an address of the Service's \
                 families may carry its traffic"
            ),
            None,
        ),
        LoadBalancerState::Active => (
            true,
            "Provisioned",
            format!("load balancer {name:?} is active"),
            None,
        ),
        LoadBalancerState::Provisioning => (
            false,
            "Provisioning",
            format!("the cloud is making load balancer {name:?}{because}"),
            Some(RECHECK),
        ),
        LoadBalancerState::Failed => {
            let left = RETRY_FAILED_AFTER_MILLIS.saturating_sub(is.state_age_millis);
            (
                false,
                "ProvisioningFailed",
                format!(
                    "the cloud could not make load balancer {name:?}{because}; it will be made \
                     anew"
                ),
                Some(Duration::from_millis(left).max(RECHECK)),
            )
        }
        LoadBalancerState::Deleting => (
            false,
            "Deleting",
            format!("the cloud is deleting load balancer {name:?}"),
            Some(RECHECK),
        ),
    };
    Status {
        ingress: ingress(is),
        ready,
        reason,
        message,
        recheck,
        pods: Vec::new(),
    }
}

/// Where clients find a load balancer: nowhere until it carries traffic. What
/// reaches the nodes has their own address as destination, so `ipMode` is
/// `Proxy` (KEP-1860); the API has none beside a hostname.
pub fn ingress(is: &LoadBalancer) -> Vec<Ingress> {
    if is.state != LoadBalancerState::Active {
        return Vec::new();
    }
    match (is.address_type, &is.hostname) {
        (AddressType::Hostname, Some(hostname)) => vec![Ingress {
            point: IngressPoint::Hostname(hostname.clone()),
            ip_mode: None,
            ports: Vec::new(),
        }],
        _ => is
            .addresses
            .iter()
            .map(|address| Ingress {
                point: IngressPoint::Ip(*address),
                ip_mode: Some(IpMode::Proxy),
                ports: Vec::new(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;
    use crate::spec::tests::{node, service};

    fn load_balancer(state: LoadBalancerState) -> LoadBalancer {
        let spec = Spec::new("c", &service(), &[node(1)]).unwrap();
        LoadBalancer {
            id: "lb-1".into(),
            name: "web".into(),
            tags: spec.tags,
            address_type: AddressType::Address,
            families: spec.families,
            listeners: spec.listeners,
            targets: spec.targets,
            health_check: spec.health_check,
            state,
            state_reason: None,
            state_age_millis: 1000,
            addresses: vec![[192, 0, 2, 1].into()],
            hostname: None,
        }
    }

    #[test]
    fn only_an_active_one_has_ingress() {
        use LoadBalancerState::{Active, Deleting, Failed, Provisioning};
        for state in [Provisioning, Failed, Deleting] {
            let status = of(&load_balancer(state));
            assert_eq!(
                (status.ingress.len(), status.ready),
                (0, false),
                "{state:?}"
            );
            assert!(
                status.recheck.is_some(),
                "{state:?}: no event tells of progress"
            );
        }
        let status = of(&load_balancer(Active));
        assert_eq!(
            (status.reason, status.ready, status.recheck),
            ("Provisioned", true, None)
        );
        assert_eq!(status.ingress[0].ip_mode, Some(IpMode::Proxy));
    }

    #[test]
    fn a_hostname_goes_without_ip_mode() {
        let mut named = load_balancer(LoadBalancerState::Active);
        named.address_type = AddressType::Hostname;
        named.hostname = Some("web.cloud.test".into());
        assert_eq!(
            ingress(&named),
            [Ingress {
                point: IngressPoint::Hostname("web.cloud.test".into()),
                ip_mode: None,
                ports: Vec::new(),
            }]
        );
    }

    #[test]
    fn a_failure_says_why_and_when_to_look_again() {
        let mut failed = load_balancer(LoadBalancerState::Failed);
        failed.state_reason = Some("no capacity".into());
        let status = of(&failed);
        assert!(status.message.contains("no capacity"));
        assert_eq!(status.recheck, Some(Duration::from_secs(4)));
    }

    #[test]
    fn without_targets_it_is_not_ready_but_keeps_its_address() {
        let mut empty = load_balancer(LoadBalancerState::Active);
        empty.targets.clear();
        let status = of(&empty);
        assert_eq!((status.ready, status.ingress.len()), (false, 1));
    }
}
