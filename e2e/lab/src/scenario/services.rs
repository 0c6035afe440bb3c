//! Services of the scenario: what is asked for, and what comes of it.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use herald_api::names::{CONDITION_LOAD_BALANCER_READY, CONDITION_WARNINGS};
use k8s_openapi::api::core::v1::{Event, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde_json::{Map, Value, json};
use tokio::process::Child;

use super::{Context, wait};
use crate::isolate;

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// As the API writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// A Service that is about to be made.
#[must_use = "nothing is made before create()"]
pub struct Exposing<'a> {
    context: &'a Context,
    name: String,
    spec: Map<String, Value>,
    ports: Vec<Value>,
    annotations: Map<String, Value>,
    labels: Value,
}

impl Context {
    /// A Service of type `LoadBalancer` in front of the pods with label
    /// `app: NAME`, of all the cluster's families. Without ports it has HTTP
    /// on 80 and the UDP echo on 9000.
    pub fn expose(&self, name: &str) -> Exposing<'_> {
        let mut spec = Map::new();
        spec.insert("type".into(), "LoadBalancer".into());
        spec.insert("ipFamilyPolicy".into(), "PreferDualStack".into());
        spec.insert("selector".into(), json!({"app": name}));
        Exposing {
            context: self,
            name: name.to_owned(),
            spec,
            ports: Vec::new(),
            annotations: Map::new(),
            labels: json!({}),
        }
    }

    /// The cluster's families, as Services list them.
    pub fn ip_families(&self) -> Vec<Family> {
        let families = self.families();
        let v4 = families.has_v4().then_some(Family::V4);
        v4.into_iter()
            .chain(families.has_v6().then_some(Family::V6))
            .collect()
    }

    /// Waits until a Service has an address of each of its families, and
    /// returns them.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>> {
        wait::object(
            self.api(),
            name,
            &format!("Service {name} to have its addresses"),
            |service| {
                let service: &Service = service?;
                let wanted = service.spec.as_ref()?.ip_families.as_ref()?.len();
                let addresses = ingress_addresses(service);
                (addresses.len() == wanted).then_some(addresses)
            },
        )
        .await
    }

    /// Waits until a Service has its addresses, and returns that of a family.
    pub async fn address(&self, name: &str, family: Family) -> Result<IpAddr> {
        self.addresses(name)
            .await?
            .into_iter()
            .find(|address| Family::of(address) == family)
            .with_context(|| format!("Service {name} has no {} address", family.name()))
    }

    /// Waits until a Service has a hostname other than `before`, and returns it.
    pub async fn hostname_other_than(&self, name: &str, before: &str) -> Result<String> {
        wait::object(
            self.api(),
            name,
            &format!("Service {name} to have a hostname other than {before:?}"),
            |service| ingress_hostname(service?).filter(|hostname| hostname != before),
        )
        .await
    }

    /// The addresses that a Service has now.
    pub async fn addresses_now(&self, name: &str) -> Result<Vec<IpAddr>> {
        Ok(ingress_addresses(&self.service(name).await?))
    }

    /// Waits until a Service has no address, and nothing is said of it any more
    /// where it is no load balancer.
    pub async fn no_addresses(&self, name: &str) -> Result<()> {
        wait::object(
            self.api(),
            name,
            &format!("Service {name} to lose its addresses"),
            |service| {
                let service: &Service = service?;
                let spec = service.spec.as_ref();
                let balancer =
                    spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
                let silent = balancer || ready_condition(service).is_none();
                (silent && ingress_addresses(service).is_empty()).then_some(())
            },
        )
        .await
    }

    /// A Service as it stands.
    pub async fn service(&self, name: &str) -> Result<Service> {
        let services: Api<Service> = self.api();
        services
            .get(name)
            .await
            .with_context(|| format!("read Service {name}"))
    }

    /// Changes a Service (JSON merge patch).
    pub async fn change_service(&self, name: &str, patch: Value) -> Result<()> {
        let services: Api<Service> = self.api();
        services
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("change Service {name}"))?;
        Ok(())
    }

    /// Deletes a Service and waits until it is gone.
    pub async fn delete_service(&self, name: &str) -> Result<()> {
        let services: Api<Service> = self.api();
        services
            .delete(name, &DeleteParams::default())
            .await
            .with_context(|| format!("delete Service {name}"))?;
        self.service_is_gone(name).await
    }

    /// Waits until a Service is gone.
    pub async fn service_is_gone(&self, name: &str) -> Result<()> {
        let services: Api<Service> = self.api();
        wait::object(
            services,
            name,
            &format!("Service {name} to be gone"),
            |service| service.is_none().then_some(()),
        )
        .await
    }

    /// Waits until the condition of a Service has this status and reason, for
    /// its present generation, and returns its message.
    pub async fn condition(&self, name: &str, status: &str, reason: &str) -> Result<String> {
        wait::object(
            self.api(),
            name,
            &format!("Service {name} to be {CONDITION_LOAD_BALANCER_READY}={status} ({reason})"),
            |service| {
                let condition = ready_condition(service?)?;
                (condition.status == status && condition.reason == reason)
                    .then(|| condition.message.clone())
            },
        )
        .await
    }

    /// Waits until nothing about a Service is odd.
    pub async fn not_warned(&self, name: &str) -> Result<()> {
        wait::object(
            self.api(),
            name,
            &format!("Service {name} to be warned of nothing"),
            |service| {
                let service: &Service = service?;
                let mut conditions = service.status.as_ref()?.conditions.iter().flatten();
                let odd = conditions.any(|c| c.type_ == CONDITION_WARNINGS);
                (!odd).then_some(())
            },
        )
        .await
    }

    /// Waits until the warnings about a Service say this, and returns them.
    pub async fn warned(&self, name: &str, words: &str) -> Result<String> {
        wait::object(
            self.api(),
            name,
            &format!("Service {name} to be warned of {words:?}"),
            |service| {
                let service: &Service = service?;
                let conditions = service.status.as_ref()?.conditions.as_ref()?;
                let found = conditions.iter().find(|c| c.type_ == CONDITION_WARNINGS)?;
                found.message.contains(words).then(|| found.message.clone())
            },
        )
        .await
    }

    /// Waits for an event with this reason on an object of the scenario's
    /// namespace, and returns its message.
    pub async fn event(&self, kind: &str, name: &str, reason: &str) -> Result<String> {
        event(self.api(), kind, name, reason).await
    }

    /// [`Context::event`] on an object in Herald's namespace.
    pub async fn herald_event(&self, kind: &str, name: &str, reason: &str) -> Result<String> {
        event(self.herald_api(), kind, name, reason).await
    }

    /// [`Context::event`] on a node.
    pub async fn node_event(&self, node: &str, reason: &str) -> Result<String> {
        // Where events about what is in no namespace are.
        event(
            Api::namespaced(self.kube(), "default"),
            "Node",
            node,
            reason,
        )
        .await
    }

    /// The events with this reason that an object of the scenario's namespace has now.
    pub(super) async fn events(&self, kind: &str, name: &str, reason: &str) -> Result<Vec<Event>> {
        let events: Api<Event> = self.api();
        let list = ListParams::default().fields(&event_fields(kind, name, reason));
        Ok(events.list(&list).await?.items)
    }

    /// How many events with this reason an object has, repetitions counted.
    pub async fn event_count(&self, kind: &str, name: &str, reason: &str) -> Result<i64> {
        let events = self.events(kind, name, reason).await?;
        Ok(events
            .iter()
            .map(|event| {
                let series = event.series.as_ref().and_then(|series| series.count);
                i64::from(series.or(event.count).unwrap_or(1))
            })
            .sum())
    }

    /// `EndpointSlice`s made by hand, one a family, of the pods with label
    /// `app: APP`, for a Service without a selector.
    pub async fn endpoints_of(&self, service: &str, app: &str, ports: Value) -> Result<()> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for pod in self.pods(app).await? {
            let ips = pod.status.and_then(|status| status.pod_ips);
            for ip in ips.context("a pod has addresses")? {
                addresses.push(ip.ip.parse()?);
            }
        }
        for family in self.ip_families() {
            let mut of_family = addresses.clone();
            of_family.retain(|address| Family::of(address) == family);
            self.endpoints_by_hand(service, &of_family, ports.clone())
                .await?;
        }
        Ok(())
    }

    /// Starts a server of the echo's protocols on a host outside of the cluster, at its
    /// address on the management network: who is served by it loses no probe with a pod.
    pub fn server_outside(&self) -> Result<Child> {
        self.lab()
            .command("cloud", isolate::own_path()?.with_file_name("echo"))
            .args(["--name=outside", "--http-port=0"])
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("start the server outside of the cluster")
    }

    /// An `EndpointSlice` made by hand for a Service without a selector.
    pub async fn endpoints_by_hand(
        &self,
        service: &str,
        addresses: &[IpAddr],
        ports: Value,
    ) -> Result<()> {
        let family = addresses
            .first()
            .map(Family::of)
            .context("an EndpointSlice needs an endpoint")?;
        let slices: Api<EndpointSlice> = self.api();
        let slice = serde_json::from_value(json!({
            "metadata": {
                "name": format!("{service}-{}", family.name().to_lowercase()),
                "labels": {
                    "kubernetes.io/service-name": service,
                    "endpointslice.kubernetes.io/managed-by": "lab.herald.dev",
                },
            },
            "addressType": family.name(),
            "endpoints": addresses
                .iter()
                .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
                .collect::<Vec<_>>(),
            "ports": ports,
        }))?;
        slices
            .create(&PostParams::default(), &slice)
            .await
            .context("create an EndpointSlice")?;
        Ok(())
    }
}

impl Exposing<'_> {
    /// A port that is forwarded to a port of the pods.
    pub fn port(mut self, name: &str, protocol: &str, port: u16, target: u16) -> Self {
        self.ports.push(json!({
            "name": name, "protocol": protocol, "port": port, "targetPort": target,
        }));
        self
    }

    /// `externalTrafficPolicy: Local`.
    pub fn local(mut self) -> Self {
        self.spec
            .insert("externalTrafficPolicy".into(), "Local".into());
        self
    }

    /// A loadBalancerClass.
    pub fn class(mut self, class: &str) -> Self {
        self.spec.insert("loadBalancerClass".into(), class.into());
        self
    }

    /// Another type than `LoadBalancer`.
    pub fn of_type(mut self, service_type: &str) -> Self {
        self.spec.insert("type".into(), service_type.into());
        self
    }

    /// Only this family.
    pub fn only(mut self, family: Family) -> Self {
        self.spec
            .insert("ipFamilyPolicy".into(), "SingleStack".into());
        self.spec
            .insert("ipFamilies".into(), json!([family.name()]));
        self
    }

    /// In front of other pods than those with the Service's name.
    pub fn in_front_of(mut self, app: &str) -> Self {
        self.spec.insert("selector".into(), json!({"app": app}));
        self
    }

    /// Without a selector: its endpoints are somebody else's business.
    pub fn without_selector(mut self) -> Self {
        self.spec.remove("selector");
        self
    }

    /// Another field of the specification.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.spec.insert(field.into(), value);
        self
    }

    /// An annotation.
    pub fn annotate(mut self, name: &str, value: impl Into<String>) -> Self {
        self.annotations.insert(name.into(), value.into().into());
        self
    }

    /// Labels, an object.
    pub fn label_all(mut self, labels: Value) -> Self {
        self.labels = labels;
        self
    }

    /// Makes the Service; returns when the API server has taken it.
    pub async fn create(mut self) -> Result<Instant> {
        if self.ports.is_empty() {
            self = self
                .port("http", "TCP", 80, 8080)
                .port("probe", "UDP", 9000, 9000);
        }
        self.spec.insert("ports".into(), self.ports.into());
        let service = serde_json::from_value(json!({
            "metadata": {
                "name": self.name, "annotations": self.annotations, "labels": self.labels,
            },
            "spec": self.spec,
        }))?;
        let services: Api<Service> = self.context.api();
        let begin = Instant::now();
        services
            .create(&PostParams::default(), &service)
            .await
            .with_context(|| format!("create Service {}", self.name))?;
        Ok(begin)
    }
}

/// `status.loadBalancer.ingress[].ip`.
pub fn ingress_addresses(service: &Service) -> Vec<IpAddr> {
    service
        .status
        .iter()
        .flat_map(|status| &status.load_balancer)
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
        .collect()
}

/// The first `status.loadBalancer.ingress[].hostname`.
pub fn ingress_hostname(service: &Service) -> Option<String> {
    let balancer = service.status.as_ref()?.load_balancer.as_ref()?;
    let mut ingress = balancer.ingress.iter().flatten();
    ingress.find_map(|ingress| ingress.hostname.clone())
}

/// The condition of the present generation by which Herald says how it stands.
pub fn ready_condition(service: &Service) -> Option<&Condition> {
    service
        .status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == CONDITION_LOAD_BALANCER_READY)
}

/// Every ingress has this `ipMode`: `VIP` where packets reach the nodes with the
/// address as destination, `Proxy` where they do not.
pub fn ensure_ip_mode(service: &Service, mode: &str) -> Result<()> {
    let ingress = service
        .status
        .iter()
        .flat_map(|status| &status.load_balancer)
        .flat_map(|balancer| balancer.ingress.iter().flatten());
    for ingress in ingress {
        ensure!(
            ingress.ip_mode.as_deref() == Some(mode),
            "ingress {:?} of Service {} has ipMode {:?}",
            ingress.ip,
            service.name_any(),
            ingress.ip_mode
        );
    }
    Ok(())
}

fn event_fields(kind: &str, name: &str, reason: &str) -> String {
    format!("involvedObject.kind={kind},involvedObject.name={name},reason={reason}")
}

async fn event(events: Api<Event>, kind: &str, name: &str, reason: &str) -> Result<String> {
    let config = watcher::Config::default().fields(&event_fields(kind, name, reason));
    let found = wait::objects(
        events,
        config,
        &format!("event {reason} on {kind} {name}"),
        |events| {
            events
                .values()
                .next()
                .map(|event| event.message.clone().unwrap_or_default())
        },
    )
    .await?;
    if found.is_empty() {
        bail!("event {reason} on {kind} {name} says nothing");
    }
    Ok(found)
}
