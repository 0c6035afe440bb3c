//! herald-operator: flags to wiring.

#[cfg(feature = "aws")]
mod aws;
mod reference;

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use herald_api::{
    BFDProfile, BGPAdvertisement, BGPPeer, BGPStatus, Community, IPAddressPool, L2Advertisement,
    L2Status,
};
use herald_baremetal::{BareMetal, SourceSettings};
use herald_core::AddressRange;
use herald_fake::FakeCloud;
use herald_ipam::{AddressPools, Obstacle, Outside};
use herald_operator::{Config, LeaseConfig, OperatorMetrics};
use herald_provider::DynProvider;
use herald_telemetry::{Health, LogFormat, Registry};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, CustomResourceExt as _, ResourceExt as _};
use tokio_util::sync::CancellationToken;

/// Gives Services of type `LoadBalancer` their load balancers.
#[derive(Debug, Parser)]
#[command(name = "herald-operator", version)]
struct Flags {
    #[command(subcommand)]
    command: Option<Command>,
    /// Providers to enable; repeatable.
    #[arg(
        long = "provider",
        value_enum,
        value_delimiter = ',',
        default_value = "baremetal"
    )]
    providers: Vec<Name>,
    /// Which of them takes Services without a loadBalancerClass.
    #[arg(long, value_enum, default_value = "baremetal")]
    default_provider: DefaultProvider,
    /// Where herald-fakecloud serves its API, http://HOST:PORT.
    #[arg(long, required_if_eq("providers", "fake"))]
    fakecloud_endpoint: Option<String>,
    /// Tells clusters apart within a cloud account; the UID of namespace
    /// kube-system if not given.
    #[arg(long)]
    cluster_id: Option<String>,
    /// Label selector of the nodes that load balancers of a cloud get.
    #[arg(long, default_value = "")]
    node_selector: String,
    /// Take over the pools, advertisements and peers of another load balancer: they
    /// are read where they are, copied into Herald's namespace and followed.
    #[arg(long, value_enum)]
    adopt: Option<Adopt>,
    /// Namespace of what --adopt reads.
    #[arg(long, default_value = "metallb-system")]
    adopt_namespace: String,
    /// What becomes of a Service whose address no pool holds any more.
    #[arg(long, value_enum, default_value = "keep")]
    outside_pools: OutsidePools,
    /// A source outside that pools may take their addresses from:
    /// name=NAME,url=URL (http, https or unix) and, where needed, timeout=5s, ca=FILE,
    /// token=FILE; repeatable.
    #[arg(long = "source")]
    sources: Vec<SourceSettings>,
    /// Ranges of cluster IPs, as CIDRs, where the cluster does not tell them (before
    /// Kubernetes 1.33): no Service gets such an address by itself; repeatable.
    #[arg(long, value_delimiter = ',')]
    service_cidr: Vec<AddressRange>,
    /// Ranges of pods, as CIDRs, where nodes do not tell them; repeatable.
    #[arg(long, value_delimiter = ',')]
    pod_cidr: Vec<AddressRange>,
    /// Another herald-operator in this cluster, with a lease of another name, serves
    /// the classes that this one does not: leave its Services alone.
    #[arg(long)]
    other_operators: bool,
    /// Say what would be done, in conditions and events, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Namespace of Herald's objects and of the leader lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "herald-system")]
    namespace: String,
    /// Who this replica is, in the leader lease: no two may have the same name.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Name of the leader lease: the same for replicas, another for another operator.
    #[arg(long, default_value = "herald-operator")]
    leader_elect_lease_name: String,
    /// Others take the lease after it was unchanged for this long.
    #[arg(long, value_parser = duration, default_value = "2s")]
    leader_elect_lease_duration: Duration,
    /// The leader stops when it could not renew for this long.
    #[arg(long, value_parser = duration, default_value = "1500ms")]
    leader_elect_renew_deadline: Duration,
    /// Between two tries for the lease.
    #[arg(long, value_parser = duration, default_value = "500ms")]
    leader_elect_retry_period: Duration,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, default_value = "[::]:7472")]
    metrics_bind_address: SocketAddr,
    /// json or text.
    #[arg(long, default_value = "json")]
    log_format: LogFormat,
    #[cfg(feature = "aws")]
    #[command(flatten)]
    aws: aws::AwsFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the custom resource definitions.
    Crds,
    /// Print the page of all kinds and their fields, in Markdown.
    Reference,
    /// Write Herald's objects that say what `MetalLB`'s say, and print them.
    Migrate(Migrate),
    /// Print the page of annotations of AWS load balancers, in Markdown.
    #[cfg(feature = "aws")]
    AwsAnnotations,
    /// Print the IAM policy of least privilege that the provider aws needs, in JSON.
    #[cfg(feature = "aws")]
    AwsIamPolicy(aws::AwsPolicy),
}

#[derive(Debug, clap::Args)]
struct Migrate {
    /// Print the objects, write none.
    #[arg(long)]
    dry_run: bool,
    /// Namespace of `MetalLB`.
    #[arg(long, default_value = "metallb-system")]
    from: String,
    /// Namespace of Herald.
    #[arg(long, env = "POD_NAMESPACE", default_value = "herald-system")]
    namespace: String,
}

impl Migrate {
    async fn run(self) -> Result<()> {
        let client = Client::try_default().await.context("find the API server")?;
        let migration =
            herald_operator::migrate(&client, &self.from, &self.namespace, self.dry_run).await?;
        let mut text = String::new();
        for object in &migration.objects {
            text.push_str("---\n");
            text.push_str(&serde_yaml_ng::to_string(object)?);
        }
        print(&text)?;
        // Apart from the objects, which may go into a file.
        let done = if self.dry_run { "would be" } else { "are" };
        eprintln!("{} objects {done} written", migration.objects.len());
        for remark in &migration.remarks {
            eprintln!("note: {remark}");
        }
        Ok(())
    }
}

/// What --adopt takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Adopt {
    Metallb,
}

impl Command {
    async fn run(self) -> Result<()> {
        match self {
            Self::Migrate(migrate) => migrate.run().await,
            Self::Crds => print(&crds()?),
            Self::Reference => print(&reference::markdown(&kinds())),
            #[cfg(feature = "aws")]
            Self::AwsAnnotations => print(&herald_aws::annotations::markdown()),
            #[cfg(feature = "aws")]
            Self::AwsIamPolicy(policy) => print(&policy.print()?),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    Baremetal,
    Fake,
    #[cfg(feature = "aws")]
    Aws,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DefaultProvider {
    Baremetal,
    Fake,
    #[cfg(feature = "aws")]
    Aws,
    None,
}

/// See [`Outside`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutsidePools {
    /// It keeps it, and is told.
    Keep,
    /// It gets another one, and keeps it until there is one.
    Move,
    /// It loses it at once, and gets another one if there is one.
    Release,
}

impl From<OutsidePools> for Outside {
    fn from(rule: OutsidePools) -> Self {
        match rule {
            OutsidePools::Keep => Self::Keep,
            OutsidePools::Move => Self::Move,
            OutsidePools::Release => Self::Release,
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    if let Some(command) = flags.command {
        return command.run().await;
    }
    herald_telemetry::init_logs(flags.log_format);
    let mut registry = Registry::default();
    let metrics = OperatorMetrics::register(&mut registry);
    let health = Health::new();
    // First of all: as process 1 of a container nothing else would end us.
    let stop = herald_telemetry::stop_on_signal()?;
    let api = kube::Config::infer().await.context("find the API server")?;
    let client = Client::try_from(api.clone()).context("make a client of the API server")?;
    let address = flags.metrics_bind_address;
    let configured = Box::pin(configure(&client, flags, &mut registry));
    let configured = stop.run_until_cancelled(configured).await;
    let Some(config) = configured.transpose()? else {
        return Ok(());
    };
    let endpoint = herald_telemetry::serve(
        address,
        Arc::new(registry),
        health.clone(),
        CancellationToken::new(),
    );
    tokio::select! {
        result = herald_operator::run(client, api, config, metrics, health, stop) => result?,
        result = endpoint => result?,
    }
    Ok(())
}

#[cfg_attr(
    not(feature = "aws"),
    expect(unused_variables, reason = "only some providers count by themselves")
)]
async fn configure(client: &Client, flags: Flags, registry: &mut Registry) -> Result<Config> {
    // No default: two replicas of one name would both lead.
    let identity = flags
        .identity
        .context("--identity is missing (in a pod POD_NAME stands for it)")?;
    let mut providers: Vec<Arc<dyn DynProvider>> = Vec::new();
    let mut pools: Option<Arc<dyn AddressPools>> = None;
    if flags.providers.contains(&Name::Baremetal) {
        let mut bare_metal = BareMetal::new(flags.outside_pools.into());
        if !flags.sources.is_empty() {
            let cluster = cluster_id(client, flags.cluster_id.as_deref()).await?;
            bare_metal = bare_metal.with_sources(flags.sources, &cluster);
        }
        let bare_metal = Arc::new(bare_metal);
        pools = Some(bare_metal.clone());
        providers.push(bare_metal);
    }
    if flags.providers.contains(&Name::Fake) {
        let endpoint = flags
            .fakecloud_endpoint
            .context("--fakecloud-endpoint is missing")?;
        let cluster = cluster_id(client, flags.cluster_id.as_deref()).await?;
        let endpoint = endpoint.parse().context("--fakecloud-endpoint is no URL")?;
        providers.push(Arc::new(FakeCloud::new(&endpoint, cluster)?));
    }
    #[cfg(feature = "aws")]
    if flags.providers.contains(&Name::Aws) {
        let cluster = cluster_id(client, flags.cluster_id.as_deref()).await?;
        providers.push(flags.aws.provider(cluster, registry).await?);
    }
    let default_provider = match flags.default_provider {
        DefaultProvider::None => None,
        DefaultProvider::Baremetal => Some(Name::Baremetal),
        DefaultProvider::Fake => Some(Name::Fake),
        #[cfg(feature = "aws")]
        DefaultProvider::Aws => Some(Name::Aws),
    };
    if let Some(name) = default_provider
        && !flags.providers.contains(&name)
    {
        bail!("--default-provider is not among the providers that --provider enables");
    }
    Ok(Config {
        namespace: flags.namespace.clone(),
        providers,
        default_provider: default_provider.map(|name| match name {
            Name::Baremetal => "baremetal".to_owned(),
            Name::Fake => "fake".to_owned(),
            #[cfg(feature = "aws")]
            Name::Aws => "aws".to_owned(),
        }),
        pools,
        obstacles: obstacles(&flags.service_cidr, "the cluster's Services")
            .chain(obstacles(&flags.pod_cidr, "the cluster's pods"))
            .collect(),
        node_selector: flags.node_selector,
        adopt_metallb: flags
            .adopt
            .map(|Adopt::Metallb| flags.adopt_namespace.clone()),
        other_operators: flags.other_operators,
        dry_run: flags.dry_run,
        lease: LeaseConfig {
            name: flags.leader_elect_lease_name,
            namespace: flags.namespace,
            identity,
            duration: flags.leader_elect_lease_duration,
            renew_deadline: flags.leader_elect_renew_deadline,
            retry_period: flags.leader_elect_retry_period,
        },
    })
}

fn obstacles<'a>(
    ranges: &'a [AddressRange],
    owner: &'a str,
) -> impl Iterator<Item = Obstacle> + 'a {
    ranges.iter().map(move |range| Obstacle {
        range: *range,
        owner: owner.to_owned(),
    })
}

/// What tells this cluster from others in an account.
async fn cluster_id(client: &Client, given: Option<&str>) -> Result<String> {
    if let Some(id) = given {
        return Ok(id.to_owned());
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .get("kube-system")
        .await
        .context("read namespace kube-system for the cluster's id (or give --cluster-id)")?
        .uid()
        .context("namespace kube-system has no UID")
}

fn kinds() -> [CustomResourceDefinition; 8] {
    [
        IPAddressPool::crd(),
        L2Advertisement::crd(),
        L2Status::crd(),
        BGPPeer::crd(),
        BGPAdvertisement::crd(),
        BFDProfile::crd(),
        Community::crd(),
        BGPStatus::crd(),
    ]
}

fn crds() -> Result<String> {
    let mut text = String::new();
    for crd in kinds() {
        let mut crd = serde_json::to_value(&crd)?;
        drop_unsigned_formats(&mut crd);
        text.push_str("---\n");
        text.push_str(&serde_yaml_ng::to_string(&crd)?);
    }
    Ok(text)
}

/// `OpenAPI` knows no unsigned numbers, and the API server warns of what it does not
/// know. The ranges stand beside.
fn drop_unsigned_formats(schema: &mut serde_json::Value) {
    match schema {
        serde_json::Value::Object(fields) => {
            if fields
                .get("format")
                .and_then(serde_json::Value::as_str)
                .is_some_and(|format| format.starts_with("uint"))
            {
                fields.remove("format");
            }
            fields.values_mut().for_each(drop_unsigned_formats);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(drop_unsigned_formats),
        _ => {}
    }
}

fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // The reader has had enough, as `head` has.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// A whole number of seconds with its unit, `15s`.
#[cfg(feature = "aws")]
fn seconds(text: &str) -> Result<Duration, String> {
    text.strip_suffix('s')
        .and_then(|number| number.parse().ok())
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text:?} is no duration; write for example 15s"))
}

/// A whole number of seconds or milliseconds with its unit, `15s` or `1500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let whole = |number: &str| number.parse().ok();
    text.strip_suffix("ms")
        .and_then(|number| whole(number).map(Duration::from_millis))
        .or_else(|| whole(text.strip_suffix('s')?).map(Duration::from_secs))
        .ok_or_else(|| format!("{text:?} is no duration; write for example 15s or 1500ms"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_do_not_contradict_each_other() {
        Flags::command().debug_assert();
    }

    #[test]
    fn durations_are_seconds_or_milliseconds() {
        assert_eq!(duration("15s"), Ok(Duration::from_secs(15)));
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        for wrong in ["15", "s", "ms", "-1s", "1m", "1.5s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[cfg(feature = "aws")]
    #[test]
    fn flags_of_aws_are_read_and_mistakes_refused() {
        let parse = |flags: &[&str]| {
            let own = [
                "herald-operator",
                "--provider=aws",
                "--default-provider=aws",
            ];
            Flags::try_parse_from(own.iter().chain(flags))
        };
        assert!(
            parse(&[
                "--aws-default-scheme=internet-facing",
                "--aws-default-tags=team=shop,stage=prod",
                "--aws-manage-backend-rules=false",
                "--aws-replaced-load-balancer-delay=60s",
            ])
            .is_ok()
        );
        for wrong in ["--aws-default-scheme=public", "--aws-default-tags=shop"] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }
}
