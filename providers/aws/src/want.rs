//! What should exist for one Service, with what its plan needs beside.

use herald_core::ServiceRequest;
use herald_provider::{Desired, Refusal, Warning};

use crate::build::{self, Request};
use crate::facts::Facts;
use crate::observed::Want;
use crate::record;
use crate::settings::Settings;
use crate::spec::{Tags, TargetGroup};

pub(crate) use crate::build::{needs_endpoints, readiness_gate, references};

/// See [`herald_provider::Provider::warnings`].
pub(crate) fn warnings(service: &ServiceRequest) -> Vec<Warning> {
    crate::annotations::warnings(service)
}

/// What should exist; none where nothing should.
pub(crate) fn want(
    settings: &Settings,
    facts: &Facts,
    desired: &Desired,
) -> Option<Result<Want, Refusal>> {
    let Desired::Present {
        service,
        nodes,
        endpoints,
        references,
    } = desired
    else {
        return None;
    };
    let request = Request {
        service,
        nodes,
        endpoints,
        references,
    };
    Some(match build::build(settings, request, facts) {
        Err(error) => Err(Refusal {
            reason: error.reason(),
            message: error.to_string(),
            keep: Vec::new(),
        }),
        Ok(mut spec) => {
            list_own(&mut spec.load_balancer.tags);
            if let crate::spec::SecurityGroups::Managed(group) = &mut spec.security_groups {
                list_own(&mut group.tags);
            }
            for group in &mut spec.target_groups {
                list_own(&mut group.tags);
                if group.shared {
                    let Some(lists) = record::list(&record::ids(&group.targets)) else {
                        return Some(Err(too_many(group)));
                    };
                    group.tags.extend(lists);
                }
            }
            let nodes = build::common_instances(nodes);
            let record = record::applied(&spec, &record::targets(&spec, &nodes));
            Ok(Want {
                spec,
                nodes,
                record,
                delay: settings.replaced_load_balancer_delay,
            })
        }
    })
}

fn too_many(group: &TargetGroup) -> Refusal {
    Refusal {
        reason: "TooManyTargets",
        message: format!(
            "{} targets are too many for a target group that other clusters use too: they are \
             listed in its tags, which hold about 400; select fewer nodes (annotation \
             aws-load-balancer-target-node-labels)",
            group.targets.len()
        ),
        keep: Vec::new(),
    }
}

/// Adds the list of the tags that were asked for, unless it is too long.
fn list_own(tags: &mut Tags) {
    let own: Vec<&str> = tags
        .keys()
        .map(String::as_str)
        .filter(|key| !key.starts_with(crate::identity::TAG_PREFIX))
        .collect();
    let list = own.join(" ");
    if !list.is_empty()
        && list.len() <= record::TAG_VALUE
        && !own.iter().any(|key| key.contains(' '))
    {
        tags.insert(record::TAG_TAGS.to_owned(), list);
    }
}
