use herald_core::{Protocol, TrafficPolicy};

use super::*;
use crate::spec::tests::{node, port, service};
use crate::wire::AddressType;

/// A cloud in a variable: what the real one does with each action.
#[derive(Clone, Default)]
struct World {
    load_balancers: Vec<LoadBalancer>,
    made: u64,
}

impl World {
    fn observe(&self) -> Observed {
        match &self.load_balancers[..] {
            [] => Observed::Nothing,
            [one] => Observed::Ours(Box::new(one.clone())),
            _ => panic!("doubled"),
        }
    }

    fn find(&mut self, id: &str) -> &mut LoadBalancer {
        self.load_balancers
            .iter_mut()
            .find(|lb| lb.id == id)
            .expect("it exists")
    }

    fn apply(&mut self, action: &Action) {
        match action {
            Action::Create(spec) => {
                assert!(
                    self.load_balancers.iter().all(|lb| lb.name != spec.name),
                    "the name is taken"
                );
                self.made += 1;
                self.load_balancers.push(LoadBalancer {
                    id: format!("lb-{}", self.made),
                    name: spec.name.clone(),
                    tags: spec.tags.clone(),
                    address_type: spec.address_type,
                    families: spec.families.clone(),
                    listeners: spec.listeners.clone(),
                    targets: spec.targets.clone(),
                    health_check: spec.health_check.clone(),
                    state: LoadBalancerState::Provisioning,
                    state_reason: None,
                    state_age_millis: 0,
                    addresses: Vec::new(),
                    hostname: None,
                });
            }
            Action::SetFamilies { id, families, .. } => self.find(id).families.clone_from(families),
            Action::SetTargets { id, targets, .. } => self.find(id).targets.clone_from(targets),
            Action::SetHealthCheck {
                id, health_check, ..
            } => self.find(id).health_check.clone_from(health_check),
            Action::SetListeners { id, listeners, .. } => {
                self.find(id).listeners.clone_from(listeners);
            }
            Action::Delete { id, .. } => self.find(id).state = LoadBalancerState::Deleting,
            Action::AwaitDeletion { id, .. } => self.load_balancers.retain(|lb| lb.id != *id),
        }
    }
}

/// What may be wanted of one Service in the course of its life.
fn wishes() -> Vec<Option<Spec>> {
    let nodes = [node(1), node(2), node(3)];
    let plain = Spec::new("c", &service(), &nodes).unwrap();
    let mut local = service();
    local.traffic_policy = TrafficPolicy::Local;
    local.health_check_node_port = Some(31000);
    local.ip_families.push(IpFamily::V6);
    local.ports = vec![port(443, Protocol::Tcp)];
    let local = Spec::new("c", &local, &nodes[1..]).unwrap();
    let empty = Spec::new("c", &service(), &[]).unwrap();
    vec![Some(plain), Some(local), Some(empty), None]
}

fn plan(wish: Option<&Spec>, observed: &Observed) -> Vec<Action> {
    match wish {
        Some(spec) => towards(spec, observed),
        None => away(observed),
    }
}

fn is_as_wished(world: &World, wish: Option<&Spec>) -> bool {
    match (wish, &world.load_balancers[..]) {
        (None, []) => true,
        (Some(spec), [lb]) => {
            lb.state != LoadBalancerState::Deleting
                && (&lb.families, &lb.listeners, &lb.targets, &lb.health_check)
                    == (
                        &spec.families,
                        &spec.listeners,
                        &spec.targets,
                        &spec.health_check,
                    )
        }
        _ => false,
    }
}

/// The wish changes, and the process dies, after every number of actions: from
/// wherever that leaves the world, the next plan leads to the newest wish.
#[test]
fn plans_converge_from_wherever_they_were_left() {
    let wishes = wishes();
    let mut walks = 0;
    for first in &wishes {
        for second in &wishes {
            for third in &wishes {
                for (cut1, cut2) in (0..6).flat_map(|a| (0..6).map(move |b| (a, b))) {
                    let mut world = World::default();
                    for (wish, cut) in [(first, cut1), (second, cut2), (third, usize::MAX)] {
                        let mut done = 0;
                        while done < cut {
                            let plan = plan(wish.as_ref(), &world.observe());
                            let Some(action) = plan.first() else { break };
                            world.apply(action);
                            done += 1;
                            assert!(done < 20, "the plan does not end");
                        }
                    }
                    assert!(is_as_wished(&world, third.as_ref()));
                    walks += 1;
                }
            }
        }
    }
    assert_eq!(walks, 4 * 4 * 4 * 36);
}

/// A whole plan, applied without looking, leads there too: what a dry run
/// prints is what would be done.
#[test]
fn a_plan_is_complete() {
    let wishes = wishes();
    for from in &wishes {
        for to in &wishes {
            let mut world = World::default();
            for wish in [from, to] {
                for action in plan(wish.as_ref(), &world.observe()) {
                    world.apply(&action);
                }
            }
            assert!(is_as_wished(&world, to.as_ref()));
            assert_eq!(plan(to.as_ref(), &world.observe()), []);
        }
    }
}

#[test]
fn a_failed_one_is_shown_for_a_while_and_then_made_anew() {
    let spec = wishes().remove(0).unwrap();
    let mut world = World::default();
    world.apply(&Action::Create(Box::new(spec.clone())));
    world.load_balancers[0].state = LoadBalancerState::Failed;
    assert_eq!(towards(&spec, &world.observe()), []);
    world.load_balancers[0].state_age_millis = RETRY_FAILED_AFTER_MILLIS;
    let text: Vec<String> = towards(&spec, &world.observe())
        .iter()
        .map(ToString::to_string)
        .collect();
    let name = &spec.name;
    assert_eq!(text[0], format!("delete load balancer {name:?}"));
    assert_eq!(
        text[1],
        format!("wait until load balancer {name:?} is gone")
    );
    assert!(text[2].starts_with(&format!("create load balancer {name:?}")));
    assert_eq!(
        away(&world.observe()).len(),
        2,
        "deleting needs no patience"
    );
}

#[test]
fn what_is_not_ours_is_never_touched() {
    let spec = wishes().remove(0).unwrap();
    let foreign = Observed::Foreign {
        id: "lb-1".into(),
        name: spec.name.clone(),
    };
    assert_eq!(towards(&spec, &foreign), []);
    assert_eq!(away(&foreign), []);
}

#[test]
fn an_address_type_that_differs_does_not_hold_up_the_rest() {
    let mut spec = wishes().remove(0).unwrap();
    let mut world = World::default();
    world.apply(&Action::Create(Box::new(spec.clone())));
    spec.address_type = AddressType::Hostname;
    assert_eq!(towards(&spec, &world.observe()), []);
    spec.targets.pop();
    assert_eq!(towards(&spec, &world.observe()).len(), 1);
}

#[test]
fn steps_read_like_sentences() {
    let spec = wishes().remove(0).unwrap();
    let name = spec.name.clone();
    assert_eq!(
        Action::Create(Box::new(spec.clone())).to_string(),
        format!(
            "create load balancer {name:?} (IPv4) with 2 listeners (UDP 53 -> 30053, TCP 80 -> \
             30080), health check TCP 30080 and 3 targets (n1 (172.30.0.1), n2 (172.30.0.2), n3 \
             (172.30.0.3))"
        )
    );
    let mut world = World::default();
    world.apply(&Action::Create(Box::new(spec.clone())));
    let next = wishes().remove(1).unwrap();
    let text: Vec<String> = towards(&next, &world.observe())
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        text,
        [
            format!("give load balancer {name:?} addresses of IPv4, IPv6"),
            format!(
                "change the targets of load balancer {name:?}, add n2 (fd30::2), n3 (fd30::3), \
                 remove n1 (172.30.0.1)"
            ),
            format!("check the targets of load balancer {name:?} by HTTP 31000 /healthz"),
            format!("let load balancer {name:?} have 1 listener (TCP 443 -> 30443)"),
        ]
    );
}
