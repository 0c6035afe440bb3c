//! The cloud's account: load balancers, addresses and quotas. Pure: time comes
//! in as an argument, what the data path should carry goes out as
//! [`Program`]s.
//!
//! ```text
//!   create -> provisioning --time is up, data path stands--> active
//!                  |                                            |
//!                  +--time is up, asked to fail--> failed       |
//!                  |                                 |          |
//!                  +----------> delete <-------------+----------+
//!                                  |
//!                               deleting --time is up--> gone
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use herald_core::{AddressRange, IpFamily, Protocol};

use crate::error::ApiError;
use crate::faults::millis;
use crate::pool::Pool;
use crate::wire::{
    AddressType, CreateLoadBalancer, HealthCheck, HostEntry, Listener, LoadBalancer,
    LoadBalancerPage, LoadBalancerState, Target, TargetHealth, TargetStatus,
};

/// How much of everything an account may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Load balancers in all.
    pub load_balancers: usize,
    /// Listeners of one load balancer.
    pub listeners: usize,
    /// Targets of one load balancer.
    pub targets: usize,
}

impl Default for Quotas {
    /// What an AWS account starts with: 50 network load balancers a region,
    /// 50 listeners each, 500 targets each.
    fn default() -> Self {
        Self {
            load_balancers: 50,
            listeners: 50,
            targets: 500,
        }
    }
}

/// How an account behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From create to active.
    pub provisioning_time: Duration,
    /// From delete to gone.
    pub deletion_time: Duration,
    /// How much it may have.
    pub quotas: Quotas,
    /// Hostnames are `<name>.<domain>`.
    pub domain: String,
    /// Where addresses come from.
    pub pools: Vec<AddressRange>,
}

/// What the data path should carry for one load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Which load balancer.
    pub id: String,
    /// Where it listens.
    pub addresses: Vec<IpAddr>,
    /// On which ports.
    pub listeners: Vec<Listener>,
    /// How targets are checked.
    pub health_check: HealthCheck,
    /// Every target, and whether it is healthy.
    pub targets: BTreeMap<IpAddr, bool>,
    /// It waits only for this to be carried out to become active.
    pub becomes_active: bool,
}

#[derive(Debug)]
struct TargetState {
    name: String,
    health: TargetHealth,
    /// Checks in a row that speak against `health`.
    against: u32,
    reason: Option<String>,
}

#[derive(Debug)]
struct Balancer {
    request: CreateLoadBalancer,
    listeners: Vec<Listener>,
    targets: BTreeMap<IpAddr, TargetState>,
    health_check: HealthCheck,
    addresses: BTreeMap<IpFamily, IpAddr>,
    state: LoadBalancerState,
    reason: Option<String>,
    /// Since when it is in `state`.
    since: Instant,
    /// When its time in `state` is up; none where it stays.
    due: Option<Instant>,
    /// What to fail with when provisioning is over.
    fate: Option<String>,
}

/// All that exists.
#[derive(Debug)]
pub struct Cloud {
    settings: Settings,
    pools: Vec<Pool>,
    balancers: BTreeMap<String, Balancer>,
    created: u64,
}

impl Cloud {
    /// An empty account.
    pub fn new(settings: Settings) -> Self {
        Self {
            pools: settings.pools.iter().copied().map(Pool::new).collect(),
            settings,
            balancers: BTreeMap::new(),
            created: 0,
        }
    }

    /// Makes a load balancer, or finds the one that the same token made. With
    /// a `fate` it fails with that reason when provisioning is over.
    /// Returns it and whether it is new.
    pub fn create(
        &mut self,
        request: CreateLoadBalancer,
        fate: Option<String>,
        now: Instant,
    ) -> Result<(LoadBalancer, bool), ApiError> {
        check_name(&request.name)?;
        check_families(&request.families)?;
        check_health_check(&request.health_check)?;
        let listeners = self.checked_listeners(&request.listeners)?;
        let targets = self.checked_targets(&request.targets)?;
        if let Some(token) = &request.client_token
            && let Some((id, twin)) = self
                .balancers
                .iter()
                .find(|(_, b)| b.request.client_token.as_ref() == Some(token))
        {
            if twin.request != request {
                return Err(ApiError::conflict(
                    "IdempotencyMismatch",
                    format!(
                        "client token {token:?} was used with another request, which made {id}"
                    ),
                ));
            }
            return Ok((self.view(id, twin, now), false));
        }
        if let Some((id, _)) = self.by_name(&request.name) {
            return Err(ApiError::conflict(
                "AlreadyExists",
                format!("name {:?} is taken by {id}", request.name),
            ));
        }
        if self.balancers.len() >= self.settings.quotas.load_balancers {
            return Err(ApiError::quota(format!(
                "this account may have {} load balancers and has them",
                self.settings.quotas.load_balancers
            )));
        }
        let addresses = self.allocate(&request.families)?;
        self.created += 1;
        let id = format!("lb-{:08x}", self.created);
        let balancer = Balancer {
            listeners,
            targets: targets
                .into_iter()
                .map(|(address, name)| (address, TargetState::new(name)))
                .collect(),
            health_check: request.health_check.clone(),
            addresses,
            state: LoadBalancerState::Provisioning,
            reason: None,
            since: now,
            due: Some(now + self.settings.provisioning_time),
            fate,
            request,
        };
        let view = self.view(&id, &balancer, now);
        self.balancers.insert(id, balancer);
        Ok((view, true))
    }

    /// One load balancer.
    pub fn get(&self, id: &str, now: Instant) -> Result<LoadBalancer, ApiError> {
        let balancer = self.balancers.get(id).ok_or_else(|| no_such(id))?;
        Ok(self.view(id, balancer, now))
    }

    /// Up to `limit` load balancers after the id `after` that bear `name` and
    /// all `tags`.
    pub fn list(
        &self,
        name: Option<&str>,
        tags: &[(String, String)],
        after: Option<&str>,
        limit: usize,
        now: Instant,
    ) -> LoadBalancerPage {
        let mut matching = self
            .balancers
            .iter()
            .filter(|(id, _)| after.is_none_or(|after| id.as_str() > after))
            .filter(|(_, b)| name.is_none_or(|name| b.request.name == name))
            .filter(|(_, b)| {
                tags.iter()
                    .all(|(key, value)| b.request.tags.get(key) == Some(value))
            });
        let items: Vec<LoadBalancer> = matching
            .by_ref()
            .take(limit)
            .map(|(id, b)| self.view(id, b, now))
            .collect();
        let next_page_token = match (matching.next(), items.last()) {
            (Some(_), Some(last)) => Some(last.id.clone()),
            _ => None,
        };
        LoadBalancerPage {
            items,
            next_page_token,
        }
    }

    /// Changes which families a load balancer has addresses of.
    pub fn set_families(
        &mut self,
        id: &str,
        families: &BTreeSet<IpFamily>,
        now: Instant,
    ) -> Result<LoadBalancer, ApiError> {
        check_families(families)?;
        let had = &self.changeable(id)?.addresses;
        let missing = families
            .iter()
            .filter(|family| !had.contains_key(family))
            .copied()
            .collect();
        let mut added = self.allocate(&missing)?;
        let balancer = self.changeable(id)?;
        balancer.addresses.append(&mut added);
        balancer
            .addresses
            .retain(|family, _| families.contains(family));
        self.get(id, now)
    }

    /// Replaces all listeners.
    pub fn set_listeners(
        &mut self,
        id: &str,
        listeners: &[Listener],
        now: Instant,
    ) -> Result<LoadBalancer, ApiError> {
        let listeners = self.checked_listeners(listeners)?;
        self.changeable(id)?.listeners = listeners;
        self.get(id, now)
    }

    /// Replaces all targets; those that stay keep their health.
    pub fn set_targets(
        &mut self,
        id: &str,
        targets: &[Target],
        now: Instant,
    ) -> Result<LoadBalancer, ApiError> {
        let targets = self.checked_targets(targets)?;
        let balancer = self.changeable(id)?;
        let mut before = std::mem::take(&mut balancer.targets);
        balancer.targets = targets
            .into_iter()
            .map(|(address, name)| {
                let state = match before.remove(&address) {
                    Some(kept) => TargetState { name, ..kept },
                    None => TargetState::new(name),
                };
                (address, state)
            })
            .collect();
        self.get(id, now)
    }

    /// Changes how targets are checked; their health so far stays.
    pub fn set_health_check(
        &mut self,
        id: &str,
        health_check: HealthCheck,
        now: Instant,
    ) -> Result<LoadBalancer, ApiError> {
        check_health_check(&health_check)?;
        self.changeable(id)?.health_check = health_check;
        self.get(id, now)
    }

    /// Begins to delete a load balancer, whatever its state. Deleting it again
    /// changes nothing.
    pub fn delete(&mut self, id: &str, now: Instant) -> Result<(), ApiError> {
        let time = self.settings.deletion_time;
        let balancer = self.balancers.get_mut(id).ok_or_else(|| no_such(id))?;
        if balancer.state != LoadBalancerState::Deleting {
            balancer.enter(LoadBalancerState::Deleting, None, now);
            balancer.due = Some(now + time);
        }
        self.advance(now);
        Ok(())
    }

    /// Lets time pass: what is due to fail fails, what is due to be gone goes.
    pub fn advance(&mut self, now: Instant) {
        self.balancers.retain(|_, balancer| {
            !(balancer.state == LoadBalancerState::Deleting && balancer.is_due(now))
        });
        for balancer in self.balancers.values_mut() {
            if balancer.state == LoadBalancerState::Provisioning
                && balancer.is_due(now)
                && let Some(fate) = balancer.fate.take()
            {
                balancer.enter(LoadBalancerState::Failed, Some(fate), now);
            }
        }
    }

    /// When [`advance`](Self::advance) or [`programs`](Self::programs) will
    /// have something new, if nobody calls before.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.balancers
            .values()
            .filter_map(|balancer| balancer.due)
            .filter(|due| *due > now)
            .min()
    }

    /// What the data path should carry now.
    pub fn programs(&self, now: Instant) -> Vec<Program> {
        self.balancers
            .iter()
            .filter_map(|(id, balancer)| {
                let becomes_active = match balancer.state {
                    LoadBalancerState::Active => false,
                    LoadBalancerState::Provisioning
                        if balancer.is_due(now) && balancer.fate.is_none() =>
                    {
                        true
                    }
                    _ => return None,
                };
                Some(Program {
                    id: id.clone(),
                    addresses: balancer.addresses.values().copied().collect(),
                    listeners: balancer.listeners.clone(),
                    health_check: balancer.health_check.clone(),
                    targets: balancer
                        .targets
                        .iter()
                        .map(|(address, t)| (*address, t.health == TargetHealth::Healthy))
                        .collect(),
                    becomes_active,
                })
            })
            .collect()
    }

    /// The data path carries a load balancer, or says why it can't. Returns
    /// whether that is news.
    pub fn carried(&mut self, id: &str, result: Result<(), String>, now: Instant) -> bool {
        let Some(balancer) = self.balancers.get_mut(id) else {
            return false;
        };
        match (balancer.state, result) {
            (LoadBalancerState::Provisioning, Ok(())) => {
                balancer.enter(LoadBalancerState::Active, None, now);
                true
            }
            (LoadBalancerState::Provisioning | LoadBalancerState::Active, result) => {
                let reason = result.err();
                let news = balancer.reason != reason;
                balancer.reason = reason;
                news
            }
            _ => false,
        }
    }

    /// Takes the result of a health check. Returns whether the target's health
    /// changed.
    pub fn record_check(&mut self, id: &str, address: IpAddr, result: Result<(), String>) -> bool {
        let Some(balancer) = self.balancers.get_mut(id) else {
            return false;
        };
        let check = &balancer.health_check;
        let Some(target) = balancer.targets.get_mut(&address) else {
            return false;
        };
        let (opinion, threshold) = match (&result, target.health) {
            // The first answer of a new target decides in its favour.
            (Ok(()), TargetHealth::Initial) => (TargetHealth::Healthy, 1),
            (Ok(()), _) => (TargetHealth::Healthy, check.healthy_threshold),
            (Err(_), _) => (TargetHealth::Unhealthy, check.unhealthy_threshold),
        };
        target.reason = result.err();
        if opinion == target.health {
            target.against = 0;
            return false;
        }
        target.against += 1;
        if target.against < threshold {
            return false;
        }
        target.against = 0;
        target.health = opinion;
        true
    }

    /// The state of every load balancer.
    pub fn states(&self) -> impl Iterator<Item = LoadBalancerState> {
        self.balancers.values().map(|balancer| balancer.state)
    }

    /// Names of active load balancers with `addressType: hostname`.
    pub fn hosts(&self) -> Vec<HostEntry> {
        self.balancers
            .values()
            .filter(|b| {
                b.state == LoadBalancerState::Active
                    && b.request.address_type == AddressType::Hostname
            })
            .map(|b| HostEntry {
                hostname: self.hostname(&b.request.name),
                addresses: b.addresses.values().copied().collect(),
            })
            .collect()
    }

    fn hostname(&self, name: &str) -> String {
        format!("{name}.{}", self.settings.domain)
    }

    fn by_name(&self, name: &str) -> Option<(&String, &Balancer)> {
        self.balancers.iter().find(|(_, b)| b.request.name == name)
    }

    /// A load balancer that is not being deleted.
    fn changeable(&mut self, id: &str) -> Result<&mut Balancer, ApiError> {
        let balancer = self.balancers.get_mut(id).ok_or_else(|| no_such(id))?;
        match balancer.state {
            LoadBalancerState::Deleting => Err(ApiError::conflict(
                "BeingDeleted",
                format!("{id} is being deleted"),
            )),
            _ => Ok(balancer),
        }
    }

    /// A free address of each family; all or none.
    fn allocate(
        &mut self,
        families: &BTreeSet<IpFamily>,
    ) -> Result<BTreeMap<IpFamily, IpAddr>, ApiError> {
        let taken: BTreeSet<IpAddr> = self
            .balancers
            .values()
            .flat_map(|b| b.addresses.values().copied())
            .collect();
        families
            .iter()
            .map(|family| {
                self.pools
                    .iter_mut()
                    .filter(|pool| pool.family() == *family)
                    .find_map(|pool| pool.take(&taken))
                    .map(|address| (*family, address))
                    .ok_or_else(|| {
                        ApiError::conflict(
                            "AddressesExhausted",
                            format!("no {family} address is free in the cloud's pools"),
                        )
                    })
            })
            .collect()
    }

    fn checked_listeners(&self, listeners: &[Listener]) -> Result<Vec<Listener>, ApiError> {
        let mut seen = BTreeSet::new();
        for listener in listeners {
            if listener.port == 0 || listener.target_port == 0 {
                return Err(ApiError::invalid("a port must be from 1 to 65535"));
            }
            if listener.protocol == Protocol::Sctp {
                return Err(ApiError::invalid(
                    "protocol SCTP is not supported; listeners are TCP or UDP",
                ));
            }
            if !seen.insert((listener.port, listener.protocol)) {
                return Err(ApiError::invalid(format!(
                    "listener {} {} is there twice",
                    listener.protocol, listener.port
                )));
            }
        }
        if listeners.len() > self.settings.quotas.listeners {
            return Err(ApiError::quota(format!(
                "a load balancer may have {} listeners, not {}",
                self.settings.quotas.listeners,
                listeners.len()
            )));
        }
        let mut listeners = listeners.to_vec();
        listeners.sort_unstable();
        Ok(listeners)
    }

    fn checked_targets(&self, targets: &[Target]) -> Result<BTreeMap<IpAddr, String>, ApiError> {
        let mut checked = BTreeMap::new();
        for target in targets {
            if checked
                .insert(target.address, target.name.clone())
                .is_some()
            {
                return Err(ApiError::invalid(format!(
                    "target {} is there twice",
                    target.address
                )));
            }
        }
        if checked.len() > self.settings.quotas.targets {
            return Err(ApiError::quota(format!(
                "a load balancer may have {} targets, not {}",
                self.settings.quotas.targets,
                checked.len()
            )));
        }
        Ok(checked)
    }

    fn view(&self, id: &str, balancer: &Balancer, now: Instant) -> LoadBalancer {
        let request = &balancer.request;
        LoadBalancer {
            id: id.to_owned(),
            name: request.name.clone(),
            tags: request.tags.clone(),
            address_type: request.address_type,
            families: balancer.addresses.keys().copied().collect(),
            listeners: balancer.listeners.clone(),
            targets: balancer
                .targets
                .iter()
                .map(|(address, target)| TargetStatus {
                    address: *address,
                    name: target.name.clone(),
                    health: target.health,
                    reason: target.reason.clone(),
                })
                .collect(),
            health_check: balancer.health_check.clone(),
            state: balancer.state,
            state_reason: balancer.reason.clone(),
            state_age_millis: millis(now.saturating_duration_since(balancer.since)),
            addresses: balancer.addresses.values().copied().collect(),
            hostname: (request.address_type == AddressType::Hostname)
                .then(|| self.hostname(&request.name)),
        }
    }
}

impl Balancer {
    fn enter(&mut self, state: LoadBalancerState, reason: Option<String>, now: Instant) {
        self.state = state;
        self.reason = reason;
        self.since = now;
        self.due = None;
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }
}

impl TargetState {
    const fn new(name: String) -> Self {
        Self {
            name,
            health: TargetHealth::Initial,
            against: 0,
            reason: None,
        }
    }
}

fn no_such(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no load balancer {id:?}"))
}

fn check_name(name: &str) -> Result<(), ApiError> {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty()
        || name.len() > 32
        || !name.chars().all(label)
        || name.starts_with('-')
        || name.ends_with('-')
    {
        return Err(ApiError::invalid(format!(
            "name {name:?} is not 1 to 32 of a-z, 0-9 and '-', without '-' at its ends"
        )));
    }
    Ok(())
}

fn check_families(families: &BTreeSet<IpFamily>) -> Result<(), ApiError> {
    if families.is_empty() {
        return Err(ApiError::invalid(
            "at least one of IPv4 and IPv6 is needed in families",
        ));
    }
    Ok(())
}

fn check_health_check(check: &HealthCheck) -> Result<(), ApiError> {
    if check.port == 0 {
        return Err(ApiError::invalid("a port must be from 1 to 65535"));
    }
    if !(10..=300_000).contains(&check.interval_millis) {
        return Err(ApiError::invalid(
            "intervalMillis must be from 10 to 300000",
        ));
    }
    let thresholds = 1..=10;
    if !thresholds.contains(&check.healthy_threshold)
        || !thresholds.contains(&check.unhealthy_threshold)
    {
        return Err(ApiError::invalid("thresholds must be from 1 to 10"));
    }
    // It goes into a request line as it stands.
    if !check.path.starts_with('/') || !check.path.chars().all(|c| c.is_ascii_graphic()) {
        return Err(ApiError::invalid(
            "path must begin with '/' and hold printable ASCII without spaces",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
