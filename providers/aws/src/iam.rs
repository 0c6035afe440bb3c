//! The IAM policy of least privilege, made from the list of [`Action`]s.
//!
//! Objects are told by the tag `herald.dev/cluster`: it must be in the request that
//! makes them and on what is changed or deleted. Reads take neither, as AWS has it.

use serde_json::{Map, Value, json};

use crate::actions::{Action, Api, Grant, Resource};
use crate::identity::TAG_CLUSTER;

/// What AWS reads in the caller's name while it makes a load balancer.
const INDIRECT: &[&str] = &[
    "ec2:DescribeAccountAttributes",
    "ec2:DescribeAddresses",
    "ec2:DescribeInternetGateways",
];
const SERVICE: &str = "elasticloadbalancing.amazonaws.com";
const ROLE: &str = "AWSServiceRoleForElasticLoadBalancing";

/// What narrows the policy down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyOptions {
    /// Partition of the ARNs: `aws`, `aws-cn`, `aws-us-gov`.
    pub partition: String,
    /// The cluster's id; without it the policy is for any cluster.
    pub cluster_id: Option<String>,
    /// The cluster's name, by which security groups of nodes are tagged; without it
    /// rules of any security group may be changed.
    pub cluster_name: Option<String>,
    /// The VPC of security groups; without it any.
    pub vpc_id: Option<String>,
    /// Whether load balancers that Herald did not make may be taken over.
    pub adoption: bool,
}

impl Default for PolicyOptions {
    fn default() -> Self {
        Self {
            partition: "aws".to_owned(),
            cluster_id: None,
            cluster_name: None,
            vpc_id: None,
            adoption: false,
        }
    }
}

/// The policy, as IAM takes it.
pub fn policy(options: &PolicyOptions) -> Value {
    let mut statements = vec![read(), service_linked_role(options)];
    statements.extend(create(options));
    statements.extend(owned(options));
    statements.extend(tags(options));
    statements.extend(group_rules(options));
    if options.adoption {
        statements.extend(adopt(options));
    }
    json!({"Version": "2012-10-17", "Statement": statements})
}

fn read() -> Value {
    let mut actions = named(|grant| matches!(grant, Grant::Read));
    actions.extend(INDIRECT.iter().map(|action| (*action).to_owned()));
    json!({"Sid": "Read", "Effect": "Allow", "Action": actions, "Resource": "*"})
}

fn service_linked_role(options: &PolicyOptions) -> Value {
    let partition = &options.partition;
    json!({
        "Sid": "ServiceLinkedRole",
        "Effect": "Allow",
        "Action": "iam:CreateServiceLinkedRole",
        "Resource": format!("arn:{partition}:iam::*:role/aws-service-role/{SERVICE}/{ROLE}"),
        "Condition": {"StringEquals": {"iam:AWSServiceName": SERVICE}},
    })
}

/// Only with our tag from the start.
fn create(options: &PolicyOptions) -> Vec<Value> {
    let mut statements = Vec::new();
    for action in Action::ALL {
        let Grant::Create(resource) = action.grant() else {
            continue;
        };
        statements.push(json!({
            "Sid": action.name(),
            "Effect": "Allow",
            "Action": action.iam(),
            "Resource": resource.arn(&options.partition),
            "Condition": tag(options, "RequestTag"),
        }));
        if resource == Resource::SecurityGroup {
            // The VPC is asked for its own sake, and has no tag of ours.
            let vpc = options.vpc_id.as_deref().unwrap_or("*");
            statements.push(json!({
                "Sid": format!("{}InVpc", action.name()),
                "Effect": "Allow",
                "Action": action.iam(),
                "Resource": format!("arn:{}:ec2:*:*:vpc/{vpc}", options.partition),
            }));
        }
    }
    statements
}

/// Only what has our tag; one statement for each set of resources.
fn owned(options: &PolicyOptions) -> Vec<Value> {
    let mut sets: Vec<&'static [Resource]> = Vec::new();
    for action in Action::ALL {
        if let Grant::Owned(resources) = action.grant()
            && !sets.contains(&resources)
        {
            sets.push(resources);
        }
    }
    sets.into_iter()
        .map(|set| {
            let names: Vec<String> = set.iter().map(|resource| format!("{resource:?}")).collect();
            let arns: Vec<String> = set.iter().map(|r| r.arn(&options.partition)).collect();
            json!({
                "Sid": format!("Change{}", names.join("")),
                "Effect": "Allow",
                "Action": named(|grant| matches!(grant, Grant::Owned(other) if other == set)),
                "Resource": arns,
                "Condition": tag(options, "ResourceTag"),
            })
        })
        .collect()
}

/// What is being made, and what is ours.
fn tags(options: &PolicyOptions) -> Vec<Value> {
    let mut statements = Vec::new();
    for api in [Api::Elbv2, Api::Ec2] {
        let actions = named_of(api, |grant| matches!(grant, Grant::Tag));
        let mut making = tag(options, "RequestTag");
        let creators: Vec<&str> = creators(api);
        let key = format!("{}:CreateAction", api.iam_prefix());
        merge(&mut making, "StringEquals", &key, json!(creators));
        let name = match api {
            Api::Elbv2 => "LoadBalancing",
            Api::Ec2 => "SecurityGroup",
        };
        for (when, condition) in [("New", making), ("Own", tag(options, "ResourceTag"))] {
            statements.push(json!({
                "Sid": format!("Tag{when}{name}"),
                "Effect": "Allow",
                "Action": actions,
                "Resource": arns(api, options),
                "Condition": condition,
            }));
        }
    }
    statements
}

/// Actions that tag what they make.
fn creators(api: Api) -> Vec<&'static str> {
    Action::ALL
        .iter()
        .filter(|action| action.api() == api && action.name().starts_with("Create"))
        .filter(|action| !matches!(action.grant(), Grant::Tag))
        .map(|action| action.name())
        .collect()
}

/// Our own groups, and those of nodes and pods, which whoever made the cluster tagged.
fn group_rules(options: &PolicyOptions) -> [Value; 2] {
    let statement = |sid: &str, condition: Value| {
        let mut statement = json!({
            "Sid": sid,
            "Effect": "Allow",
            "Action": named(|grant| matches!(grant, Grant::GroupRules)),
            "Resource": Resource::SecurityGroup.arn(&options.partition),
        });
        if condition != json!({}) {
            statement["Condition"] = condition;
        }
        statement
    };
    let mut backends = json!({});
    if let Some(name) = &options.cluster_name {
        let key = format!("aws:ResourceTag/kubernetes.io/cluster/{name}");
        merge(&mut backends, "Null", &key, json!("false"));
    }
    if let Some(vpc) = &options.vpc_id {
        let arn = format!("arn:{}:ec2:*:*:vpc/{vpc}", options.partition);
        merge(&mut backends, "ArnLike", "ec2:Vpc", json!(arn));
    }
    [
        statement("OwnGroupRules", tag(options, "ResourceTag")),
        statement("BackendGroupRules", backends),
    ]
}

/// Our tag onto what is not ours yet.
fn adopt(options: &PolicyOptions) -> Vec<Value> {
    [Api::Elbv2, Api::Ec2]
        .into_iter()
        .map(|api| {
            json!({
                "Sid": match api {
                    Api::Elbv2 => "AdoptLoadBalancing",
                    Api::Ec2 => "AdoptSecurityGroup",
                },
                "Effect": "Allow",
                "Action": named_of(api, |grant| matches!(grant, Grant::Tag)),
                "Resource": arns(api, options),
                "Condition": tag(options, "RequestTag"),
            })
        })
        .collect()
}

fn arns(api: Api, options: &PolicyOptions) -> Vec<String> {
    let resources: &[Resource] = match api {
        Api::Elbv2 => &[
            Resource::LoadBalancer,
            Resource::Listener,
            Resource::TargetGroup,
        ],
        Api::Ec2 => &[Resource::SecurityGroup],
    };
    resources
        .iter()
        .map(|r| r.arn(&options.partition))
        .collect()
}

/// The condition that the tag in the request, or on the resource, is this cluster's.
fn tag(options: &PolicyOptions, place: &str) -> Value {
    let key = format!("aws:{place}/{TAG_CLUSTER}");
    match &options.cluster_id {
        Some(id) => json!({"StringEquals": {key: id}}),
        None => json!({"Null": {key: "false"}}),
    }
}

fn merge(condition: &mut Value, operator: &str, key: &str, value: Value) {
    let Some(map) = condition.as_object_mut() else {
        return;
    };
    let of_operator = map
        .entry(operator)
        .or_insert_with(|| Value::Object(Map::new()));
    of_operator[key] = value;
}

fn named(which: impl Fn(Grant) -> bool) -> Vec<String> {
    let chosen = Action::ALL.iter().filter(|action| which(action.grant()));
    chosen.map(|action| action.iam()).collect()
}

fn named_of(api: Api, which: impl Fn(Grant) -> bool) -> Vec<String> {
    let of_api = Action::ALL.iter().filter(|action| action.api() == api);
    of_api
        .filter(|action| which(action.grant()))
        .map(|action| action.iam())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrow() -> PolicyOptions {
        PolicyOptions {
            cluster_id: Some("c1".into()),
            cluster_name: Some("prod".into()),
            vpc_id: Some("vpc-1".into()),
            adoption: true,
            ..PolicyOptions::default()
        }
    }

    fn statements(policy: &Value) -> &Vec<Value> {
        policy["Statement"].as_array().unwrap()
    }

    fn actions(statement: &Value) -> Vec<String> {
        match &statement["Action"] {
            Value::String(action) => vec![action.clone()],
            Value::Array(actions) => actions
                .iter()
                .map(|a| a.as_str().unwrap().to_owned())
                .collect(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn every_action_is_allowed_and_nothing_else() {
        for options in [PolicyOptions::default(), narrow()] {
            let policy = policy(&options);
            let allowed: Vec<String> = statements(&policy).iter().flat_map(actions).collect();
            for action in Action::ALL {
                assert!(allowed.contains(&action.iam()), "{}", action.iam());
            }
            for action in &allowed {
                let ours = Action::ALL.iter().any(|known| known.iam() == *action);
                let indirect = INDIRECT.contains(&action.as_str());
                let role = action == "iam:CreateServiceLinkedRole";
                assert!(ours || indirect || role, "{action}");
                assert!(!action.contains('*'), "{action}");
            }
        }
    }

    #[test]
    fn only_reads_are_without_a_condition_or_a_resource() {
        for statement in statements(&policy(&narrow())) {
            let reads = actions(statement).iter().all(|a| a.contains(":Describe"));
            assert_eq!(statement["Resource"] == "*", reads, "{statement}");
            let of_vpc = statement["Sid"] == "CreateSecurityGroupInVpc";
            assert_eq!(
                statement["Condition"].is_null(),
                reads || of_vpc,
                "{statement}"
            );
        }
    }

    #[test]
    fn sids_are_unique_and_the_policy_fits_into_one() {
        let policy = policy(&narrow());
        let mut sids: Vec<&str> = statements(&policy)
            .iter()
            .map(|statement| statement["Sid"].as_str().unwrap())
            .collect();
        let count = sids.len();
        assert!(
            sids.iter()
                .all(|sid| sid.chars().all(|c| c.is_ascii_alphanumeric()))
        );
        sids.sort_unstable();
        sids.dedup();
        assert_eq!(sids.len(), count);
        // A managed policy has at most 6,144 characters, white space apart.
        assert!(
            policy.to_string().len() <= 6144,
            "{}",
            policy.to_string().len()
        );
        insta::assert_snapshot!(serde_json::to_string_pretty(&policy).unwrap());
    }
}
