//! What a scenario holds: the lab, its own corner of the cluster, and what it
//! has to report.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

use super::audit::{self, Audit};
use super::{Case, Effort, Event, ProxyMode, Sample, statistics, wait};
use crate::lab::Lab;
use crate::plan::Families;

/// Label of everything that a scenario makes, with the scenario's namespace.
pub const LABEL: &str = "lab.herald.dev/scenario";

/// Namespace of Herald's own objects.
pub const HERALD: &str = "herald-system";

/// A scenario's view of its lab. Its Services and pods are in a namespace of
/// its own, its pools serve only that namespace and take addresses that no
/// other scenario's pools have.
pub struct Context {
    lab: Lab,
    case: Case,
    /// Which block of the lab's pool addresses is this scenario's.
    block: u8,
    effort: Effort,
    directory: PathBuf,
    namespace: String,
    samples: Vec<Sample>,
    /// Where in the audit log this scenario's part begins.
    audited_from: u64,
}

impl Context {
    /// Makes the scenario's namespace, if there is a cluster, and its folder for what
    /// it keeps.
    pub(super) async fn enter(lab: Lab, case: Case, block: u8, effort: Effort) -> Result<Self> {
        let directory = lab.logs().join(case.folder());
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("make {}", directory.display()))?;
        let namespace = case.scenario.clone();
        let cluster = lab.spec.has_cluster();
        let audited_from = if cluster {
            audit::length(&lab.audit_log())?
        } else {
            0
        };
        let context = Self {
            lab,
            case,
            block,
            effort,
            directory,
            namespace,
            samples: Vec::new(),
            audited_from,
        };
        if !cluster {
            return Ok(context);
        }
        let namespaces: Api<Namespace> = Api::all(context.kube());
        let namespace = serde_json::from_value(json!({
            "metadata": {
                "name": context.namespace,
                "labels": {LABEL: context.namespace},
            },
        }))?;
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .context("make the scenario's namespace")?;
        Ok(context)
    }

    /// Deletes everything the scenario made and waits until nothing of
    /// Herald's is left: a finalizer that nobody takes away or an address that
    /// is not given back is a failure of the scenario.
    pub(super) async fn leave(&mut self) -> Result<()> {
        if !self.lab.spec.has_cluster() {
            return Ok(());
        }
        // Services first, while the pools that they came from still stand.
        let services: Api<Service> = Api::namespaced(self.kube(), &self.namespace);
        services
            .delete_collection(&DeleteParams::default(), &kube::api::ListParams::default())
            .await
            .context("delete the scenario's Services")?;
        wait::objects(
            services,
            kube::runtime::watcher::Config::default(),
            "the scenario's Services to be gone",
            |left| left.is_empty().then_some(()),
        )
        .await?;
        self.pools_are_unused().await?;
        self.delete_pools().await?;
        // What is left now is Kubernetes' own business, and takes its time.
        let namespaces: Api<Namespace> = Api::all(self.kube());
        namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await
            .context("delete the scenario's namespace")?;
        Ok(())
    }

    /// Forgets what the API server has denied Herald so far: while it starts, it
    /// denies everybody until it has read the roles.
    pub fn forgive_denials(&mut self) -> Result<()> {
        self.audited_from = audit::length(&self.lab.audit_log())?;
        Ok(())
    }

    /// The shipped roles allow all that Herald asks for, whatever the scenario.
    pub(super) fn nothing_was_denied(&self) -> Result<()> {
        if !self.lab.spec.has_cluster() {
            return Ok(());
        }
        let audit = Audit::read_from(&self.lab.audit_log(), self.audited_from)?;
        let denied: Vec<String> = audit.denied().iter().map(ToString::to_string).collect();
        ensure!(
            denied.is_empty(),
            "the API server denied Herald: {}",
            denied.join("; ")
        );
        Ok(())
    }

    /// The lab.
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// A client of the API server with an administrator's rights.
    pub fn kube(&self) -> kube::Client {
        self.lab.kube()
    }

    /// The scenario's own namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// An API of the scenario's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.kube(), &self.namespace)
    }

    /// An API of Herald's namespace.
    pub fn herald_api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.kube(), HERALD)
    }

    /// Runs `kubectl ARGS` in the scenario's namespace and returns what it
    /// printed.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", self.namespace.as_str()];
        all.extend(args);
        self.lab.kubectl(&all).await
    }

    /// The cluster's IP families.
    pub const fn families(&self) -> Families {
        self.case.needs.families
    }

    /// kube-proxy's mode.
    pub const fn proxy_mode(&self) -> ProxyMode {
        self.case.needs.proxy_mode
    }

    /// How much a bench is asked to do.
    pub const fn effort(&self) -> &Effort {
        &self.effort
    }

    /// Names of the nodes.
    pub fn nodes(&self) -> Vec<String> {
        (1..=self.case.needs.nodes)
            .map(|i| format!("n{i}"))
            .collect()
    }

    /// How many nodes there are.
    pub const fn node_count(&self) -> u8 {
        self.case.needs.nodes
    }

    /// Where the scenario keeps captures and what else it wants to keep.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Which block of the lab's pool addresses is this scenario's.
    pub(super) const fn block(&self) -> u8 {
        self.block
    }

    /// Tells what was done or seen.
    pub fn step(&self, text: impl Into<String>) {
        Event::Step {
            case: Some(self.case.label()),
            text: text.into(),
        }
        .tell();
    }

    /// Notes a measurement of `what`, a word or two with dashes. The summary
    /// tells its statistics under the scenario's name, with the kube-proxy
    /// mode where it is not the usual one.
    pub fn measured(&mut self, what: &str, value: f64, unit: &str) {
        self.note(what, value, unit, false);
    }

    /// Notes a figure: what was measured often enough in this run and is told
    /// under the name given, with a statistic in it or none.
    pub fn figure(&mut self, what: &str, value: f64, unit: &str) {
        self.note(what, value, unit, true);
    }

    /// Notes the median, the 99th percentile and the largest of what was measured
    /// over several rounds, as figures.
    pub fn spread(&mut self, what: &str, values: &[f64], unit: &str) {
        for (statistic, value) in statistics::spread(values) {
            self.figure(&format!("{what}/{statistic}"), value, unit);
        }
    }

    fn note(&mut self, what: &str, value: f64, unit: &str, whole: bool) {
        let mode = match self.case.needs.proxy_mode {
            ProxyMode::Nftables => String::new(),
            mode => format!("-{mode}"),
        };
        self.samples.push(Sample {
            name: format!("{}/{what}{mode}", self.case.scenario),
            value,
            unit: unit.to_owned(),
            whole,
        });
    }

    /// Notes a duration in milliseconds.
    pub fn measured_ms(&mut self, what: &str, duration: Duration) {
        let tenths = (duration.as_secs_f64() * 10_000.0).round();
        self.measured(what, tenths / 10.0, "ms");
    }

    /// Notes the time since `begin` in milliseconds.
    pub fn measured_since(&mut self, what: &str, begin: Instant) {
        self.measured_ms(what, begin.elapsed());
    }

    /// The measurements noted so far.
    pub(super) fn take_samples(&mut self) -> Vec<Sample> {
        std::mem::take(&mut self.samples)
    }
}
