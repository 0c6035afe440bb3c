//! What the operator was told about AWS, by flags.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::spec::{Scheme, TargetType};

/// Settings of the provider, the same for all Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Tells clusters apart within an account: the value of the tag
    /// `herald.dev/cluster`, and part of every generated name.
    pub cluster_id: String,
    /// The cluster's name as EKS and other tools know it: subnets and security
    /// groups are tagged `kubernetes.io/cluster/<name>`, load balancers of the AWS
    /// Load Balancer Controller `elbv2.k8s.aws/cluster=<name>`.
    pub cluster_name: Option<String>,
    /// Region; asked of the SDK's chain and the instance metadata if none.
    pub region: Option<String>,
    /// VPC of the load balancers; asked of the instance metadata if none.
    pub vpc_id: Option<String>,
    /// URL of another API than AWS's, for both services.
    pub endpoint: Option<String>,
    /// What is registered where a Service does not say.
    pub default_target_type: TargetType,
    /// Scheme of new load balancers where a Service does not say.
    pub default_scheme: Scheme,
    /// Security policy of TLS listeners where a Service does not say.
    pub default_ssl_policy: String,
    /// Tags of everything that is made. They win over a Service's own.
    pub default_tags: BTreeMap<String, String>,
    /// Whether rules are kept in the security groups of nodes and pods, where a
    /// Service does not say and its load balancer has a managed security group.
    pub manage_backend_rules: bool,
    /// How long a load balancer that was replaced keeps serving those who still
    /// know its name.
    pub replaced_load_balancer_delay: Duration,
    /// Classes of Services that are served beside `herald.dev/aws-nlb`, such as
    /// `service.k8s.aws/nlb` once the AWS Load Balancer Controller is gone: a
    /// Service can't change its class.
    pub more_classes: Vec<String>,
    /// How fast AWS is called, in percent of the rates that it gives a new account:
    /// less where other programs call much, over 100 where AWS has raised the
    /// account's rates.
    pub api_rate_percent: u32,
}

impl Default for Settings {
    /// What the AWS Load Balancer Controller does where nothing is said.
    fn default() -> Self {
        Self {
            cluster_id: String::new(),
            cluster_name: None,
            region: None,
            vpc_id: None,
            endpoint: None,
            default_target_type: TargetType::Instance,
            default_scheme: Scheme::Internal,
            default_ssl_policy: "ELBSecurityPolicy-2016-08".to_owned(),
            default_tags: BTreeMap::new(),
            manage_backend_rules: true,
            replaced_load_balancer_delay: Duration::from_mins(5),
            more_classes: Vec::new(),
            api_rate_percent: 90,
        }
    }
}
