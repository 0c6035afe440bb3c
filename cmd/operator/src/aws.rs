//! Flags and commands of the provider `aws`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use herald_aws::iam::{PolicyOptions, policy};
use herald_aws::spec::{Scheme, TargetType};
use herald_aws::{Aws, Metrics, Settings};
use herald_provider::DynProvider;
use herald_telemetry::Registry;

use crate::seconds;

/// Flags of the provider.
#[derive(Debug, Args)]
#[command(next_help_heading = "Provider aws")]
#[expect(clippy::struct_field_names, reason = "they are the flags' names")]
pub(crate) struct AwsFlags {
    /// Region of the load balancers; the AWS SDK's chain and the instance metadata know
    /// it otherwise.
    #[arg(long)]
    aws_region: Option<String>,
    /// VPC of the load balancers; the instance metadata knows it otherwise.
    #[arg(long)]
    aws_vpc_id: Option<String>,
    /// The cluster's name, by which subnets and security groups are tagged
    /// `kubernetes.io/cluster/NAME`, and load balancers of the AWS Load Balancer
    /// Controller are known.
    #[arg(long)]
    aws_cluster_name: Option<String>,
    /// URL of another API than AWS's.
    #[arg(long)]
    aws_endpoint: Option<String>,
    /// What is registered where a Service does not say: nodes or pods.
    #[arg(long, value_parser = target_type(), default_value = "instance")]
    aws_default_target_type: TargetType,
    /// Scheme of new load balancers where a Service does not say.
    #[arg(long, value_parser = scheme(), default_value = "internal")]
    aws_default_scheme: Scheme,
    /// Security policy of TLS listeners where a Service does not say.
    #[arg(long, default_value = "ELBSecurityPolicy-2016-08")]
    aws_default_ssl_policy: String,
    /// Tags of everything that is made, `KEY=VALUE`; repeatable. They win over a
    /// Service's own.
    #[arg(long, value_parser = pair, value_delimiter = ',')]
    aws_default_tags: Vec<(String, String)>,
    /// Whether load balancers are let in by rules in the security groups of nodes and
    /// pods, where a Service does not say.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    aws_manage_backend_rules: bool,
    /// How long a load balancer that was replaced goes on for those who still know its
    /// name.
    #[arg(long, value_parser = seconds, default_value = "300s")]
    aws_replaced_load_balancer_delay: Duration,
    /// A class of Services to serve beside herald.dev/aws-nlb, such as
    /// service.k8s.aws/nlb once the AWS Load Balancer Controller is gone; repeatable.
    #[arg(long = "aws-load-balancer-class")]
    aws_load_balancer_classes: Vec<String>,
    /// How fast AWS is called, in percent of the rates that it gives a new account; over
    /// 100 where AWS has raised the account's.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000), default_value_t = 90)]
    aws_api_rate_percent: u32,
}

impl AwsFlags {
    /// The provider for the cluster with that id.
    pub(crate) async fn provider(
        self,
        cluster_id: String,
        registry: &mut Registry,
    ) -> Result<Arc<dyn DynProvider>> {
        let settings = Settings {
            cluster_id,
            cluster_name: self.aws_cluster_name,
            region: self.aws_region,
            vpc_id: self.aws_vpc_id,
            endpoint: self.aws_endpoint,
            default_target_type: self.aws_default_target_type,
            default_scheme: self.aws_default_scheme,
            default_ssl_policy: self.aws_default_ssl_policy,
            default_tags: self
                .aws_default_tags
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
            manage_backend_rules: self.aws_manage_backend_rules,
            replaced_load_balancer_delay: self.aws_replaced_load_balancer_delay,
            more_classes: self.aws_load_balancer_classes,
            api_rate_percent: self.aws_api_rate_percent,
        };
        let metrics = Metrics::register(registry);
        let provider = Aws::new(settings, metrics).await.context("provider aws")?;
        Ok(Arc::new(provider))
    }
}

/// Flags of the command that prints the IAM policy.
#[derive(Debug, Args)]
pub(crate) struct AwsPolicy {
    /// Only for this cluster: what --cluster-id says, or the UID of namespace
    /// kube-system. Any cluster's if not given.
    #[arg(long)]
    cluster_id: Option<String>,
    /// Rules only in security groups tagged `kubernetes.io/cluster/NAME`, besides
    /// Herald's own.
    #[arg(long)]
    cluster_name: Option<String>,
    /// Security groups only of this VPC.
    #[arg(long)]
    vpc_id: Option<String>,
    /// Partition of the ARNs: aws, aws-cn or aws-us-gov.
    #[arg(long, default_value = "aws")]
    partition: String,
    /// Allow taking over load balancers that Herald did not make.
    #[arg(long)]
    adoption: bool,
}

impl AwsPolicy {
    /// The policy as JSON.
    pub(crate) fn print(self) -> Result<String> {
        let policy = policy(&PolicyOptions {
            partition: self.partition,
            cluster_id: self.cluster_id,
            cluster_name: self.cluster_name,
            vpc_id: self.vpc_id,
            adoption: self.adoption,
        });
        Ok(serde_json::to_string_pretty(&policy)? + "\n")
    }
}

fn target_type() -> impl clap::builder::TypedValueParser<Value = TargetType> {
    PossibleValuesParser::new(["instance", "ip"]).map(|word| match word.as_str() {
        "ip" => TargetType::Ip,
        _ => TargetType::Instance,
    })
}

fn scheme() -> impl clap::builder::TypedValueParser<Value = Scheme> {
    PossibleValuesParser::new(["internal", "internet-facing"]).map(|word| match word.as_str() {
        "internet-facing" => Scheme::InternetFacing,
        _ => Scheme::Internal,
    })
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no tag; write KEY=VALUE")),
    }
}
