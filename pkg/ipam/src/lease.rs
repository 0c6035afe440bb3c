//! Pools whose addresses come from outside: what their source was asked, what it
//! said, and what is to be given back to it.
//!
//! ```text
//!   decide ──Unasked(request)──> the source ──answer──> decide ──> assign
//!                                    ^
//!   an address that nobody has ──> departing ──> returning ──> returned
//!   what the source lists ──> audit ──> departing, or asked for again
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use herald_core::{IpFamily, ServiceKey, ServiceRequest};

use crate::allocator::Allocator;
use crate::claim::Claim;

/// What a source refused is asked of it again after this long.
const ASK_AGAIN: Duration = Duration::from_mins(1);

/// One address for one Service, asked of the source of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// The pool.
    pub pool: String,
    /// What the lease is called at the source: the same for the same wish, whoever
    /// asks and however often. The Service's uid, a dot, and `ipv4`, `ipv6` or the
    /// address that is asked for; then `-2`, `-3`, … where others share what the
    /// Service was given before and can't have any more.
    pub id: String,
    /// `metadata.uid` of the Service.
    pub uid: String,
    /// The Service.
    pub service: ServiceKey,
    /// The family.
    pub family: IpFamily,
    /// The address, where any other will not do.
    pub address: Option<IpAddr>,
}

impl LeaseRequest {
    pub(crate) fn new(
        pool: &str,
        service: &ServiceRequest,
        family: IpFamily,
        address: Option<IpAddr>,
    ) -> Self {
        Self::of(pool, &service.uid, &service.key, family, address)
    }

    fn of(
        pool: &str,
        uid: &str,
        service: &ServiceKey,
        family: IpFamily,
        address: Option<IpAddr>,
    ) -> Self {
        let what = match (address, family) {
            (Some(address), _) => address.to_string(),
            (None, IpFamily::V4) => "ipv4".to_owned(),
            (None, IpFamily::V6) => "ipv6".to_owned(),
        };
        Self {
            pool: pool.to_owned(),
            id: format!("{uid}.{what}"),
            uid: uid.to_owned(),
            service: service.clone(),
            family,
            address,
        }
    }

    /// The same wish again, for who has leased an address to others by it.
    fn another(&self, nth: usize) -> Self {
        Self {
            id: format!("{}-{nth}", self.id),
            ..self.clone()
        }
    }
}

/// A pool that takes its addresses from a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced {
    /// The source's name.
    pub source: String,
    /// Whether the pool is on its way out: nothing is asked for any more, and what
    /// nobody has is given back.
    pub closing: bool,
}

/// An address that a source says it has given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// [`LeaseRequest::id`].
    pub id: String,
    /// The address.
    pub address: IpAddr,
}

impl Lease {
    /// `metadata.uid` of the Service that asked for it.
    fn uid(&self) -> &str {
        self.id.split_once('.').map_or("", |(uid, _)| uid)
    }
}

/// A source's no.
#[derive(Clone, Debug)]
struct Rebuff {
    service: ServiceKey,
    message: String,
    until: SystemTime,
}

/// An address that the source has given.
#[derive(Clone, Copy, Debug)]
struct Leased {
    address: IpAddr,
    /// When this was learnt: [`Book::clock`].
    learnt: u64,
    /// Whether its Service can have it.
    good: bool,
}

/// What is known of one pool's source.
#[derive(Debug, Default)]
struct Book {
    leased: HashMap<String, Leased>,
    by_address: HashMap<IpAddr, String>,
    by_uid: HashMap<String, BTreeSet<String>>,
    rebuffs: BTreeMap<String, Rebuff>,
    /// Leases to be given back, and whether another may have what they free.
    departing: BTreeMap<String, bool>,
    /// Those of them that are being given back at this moment.
    returning: BTreeMap<String, bool>,
    /// Addresses that Services have and that the source does not leave to them, and
    /// what it says.
    disowned: BTreeMap<IpAddr, String>,
    /// Counts answers.
    clock: u64,
}

impl Book {
    fn learn(&mut self, lease: Lease, good: bool) {
        self.clock += 1;
        self.lose(&lease.id);
        let (address, learnt) = (lease.address, self.clock);
        if good {
            self.by_address.insert(address, lease.id.clone());
        }
        let ids = self.by_uid.entry(lease.uid().to_owned()).or_default();
        ids.insert(lease.id.clone());
        let leased = Leased {
            address,
            learnt,
            good,
        };
        self.leased.insert(lease.id, leased);
    }

    /// Whether it is by this lease that an address is had, as far as is known.
    fn covers(&self, id: &str, address: &IpAddr) -> bool {
        let lease = self.by_address.get(address);
        lease.is_none_or(|other| other == id)
    }

    /// The source may have a lease back.
    fn doubt(&mut self, id: &str) {
        if let Some(leased) = self.leased.get(id) {
            let lease = Lease {
                id: id.to_owned(),
                address: leased.address,
            };
            self.learn(lease, false);
        }
    }

    fn lose(&mut self, id: &str) {
        let Some(leased) = self.leased.remove(id) else {
            return;
        };
        if self
            .by_address
            .get(&leased.address)
            .is_some_and(|other| other == id)
        {
            self.by_address.remove(&leased.address);
        }
        let uid = id.split_once('.').map_or("", |(uid, _)| uid);
        if let Some(ids) = self.by_uid.get_mut(uid) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_uid.remove(uid);
            }
        }
    }
}

/// What is known of the sources of all pools.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    books: BTreeMap<String, Book>,
}

/// What is known of a wish.
pub(crate) enum Said {
    /// The source gave this.
    Yes(IpAddr),
    /// It gives nothing.
    No(String),
}

impl Leases {
    /// What the source said to a request, if it was asked and that still counts.
    pub(crate) fn said(&self, request: &LeaseRequest, now: SystemTime) -> Option<Said> {
        let book = self.books.get(&request.pool)?;
        if book.returning.contains_key(&request.id) {
            return None;
        }
        if let Some(leased) = book.leased.get(&request.id).filter(|leased| leased.good) {
            return Some(Said::Yes(leased.address));
        }
        let rebuff = book.rebuffs.get(&request.id)?;
        (rebuff.until > now).then(|| Said::No(rebuff.message.clone()))
    }

    /// What the source of a pool says of an address that a Service has and that is not
    /// its own there.
    pub(crate) fn disowned(&self, pool: &str, address: &IpAddr) -> Option<&str> {
        let book = self.books.get(pool)?;
        book.disowned.get(address).map(String::as_str)
    }

    /// Nobody has this address of a pool any more.
    pub(crate) fn vacated(&mut self, address: &IpAddr) {
        for book in self.books.values_mut() {
            book.disowned.remove(address);
            if let Some(id) = book.by_address.get(address) {
                book.departing.insert(id.clone(), true);
            }
        }
    }

    /// An address is about to be assigned: if it was to be given back, it is not.
    pub(crate) fn wanted_again(&mut self, address: &IpAddr) {
        for book in self.books.values_mut() {
            if let Some(id) = book.by_address.get(address) {
                book.departing.remove(id);
            }
        }
    }

    /// Forgets what sources refused: the pools are others now.
    pub(crate) fn ask_anew(&mut self) {
        for book in self.books.values_mut() {
            book.rebuffs.clear();
        }
    }

    /// Of the leases that a Service asked for those stay that somebody has. Who has what
    /// a source gave wrongly has it by another lease.
    pub(crate) fn keep(&mut self, uid: &str, held: impl Fn(&IpAddr) -> bool) {
        for book in self.books.values_mut() {
            for id in book.by_uid.get(uid).into_iter().flatten() {
                let leased = book.leased.get(id);
                let good = leased.is_some_and(|leased| leased.good);
                if good && leased.is_some_and(|leased| held(&leased.address)) {
                    book.departing.remove(id);
                } else {
                    book.departing.entry(id.clone()).or_insert(good);
                }
            }
        }
    }

    /// Services that may ask again now, and when to look at the earliest of the others.
    pub(crate) fn due(&mut self, now: SystemTime) -> (Vec<ServiceKey>, Option<SystemTime>) {
        let mut services = Vec::new();
        let mut next: Option<SystemTime> = None;
        for book in self.books.values_mut() {
            book.rebuffs.retain(|_, rebuff| {
                if rebuff.until <= now {
                    services.push(rebuff.service.clone());
                    return false;
                }
                next = Some(next.map_or(rebuff.until, |other| other.min(rebuff.until)));
                true
            });
        }
        (services, next)
    }
}

impl Allocator {
    /// The same wish under the first id whose lease this Service can use: one that it
    /// shared with others and can't have any more stays theirs.
    pub(crate) fn free_request(&self, claim: &Claim, first: &LeaseRequest) -> LeaseRequest {
        let theirs = |request: &LeaseRequest| {
            let book = self.leases.books.get(&request.pool);
            let leased = book.and_then(|book| Some((book, book.leased.get(&request.id)?)));
            leased.is_some_and(|(book, leased)| {
                leased.good
                    && book.covers(&request.id, &leased.address)
                    && self.clash(claim, &leased.address).is_some()
            })
        };
        let mut request = first.clone();
        for nth in 2.. {
            if !theirs(&request) {
                break;
            }
            request = first.another(nth);
        }
        request
    }

    fn others_have(&self, address: &IpAddr, uid: &str) -> bool {
        let mut holders = self.holders.get(address).into_iter().flatten();
        holders.any(|other| other != uid)
    }

    /// Takes what the source said to a request: an address, or why it gives none. An
    /// address that the Service can't have is given back, and counts as a no, unless
    /// other Services have it by this lease.
    pub fn answer(
        &mut self,
        request: &LeaseRequest,
        said: Result<IpAddr, String>,
        now: SystemTime,
    ) {
        let (given, checked) = match said {
            Ok(address) => (Some(address), self.check_answer(request, address)),
            Err(message) => (None, Err(message)),
        };
        let shared = given.is_some_and(|address| self.others_have(&address, &request.uid));
        let book = self.leases.books.entry(request.pool.clone()).or_default();
        book.departing.remove(&request.id);
        if let Some(address) = given.filter(|address| shared && book.covers(&request.id, address)) {
            // It is theirs, and the next id is asked for.
            let id = request.id.clone();
            book.learn(Lease { id, address }, true);
            return;
        }
        let leased = book.leased.contains_key(&request.id) || given.is_some();
        match given {
            Some(address) => {
                let lease = Lease {
                    id: request.id.clone(),
                    address,
                };
                book.learn(lease, checked.is_ok());
            }
            // What it gave before does not count any more.
            None => book.lose(&request.id),
        }
        let Err(message) = checked else {
            book.rebuffs.remove(&request.id);
            return;
        };
        if leased {
            // What it gives is of no use to anybody else.
            book.departing.insert(request.id.clone(), false);
        }
        let rebuff = Rebuff {
            service: request.service.clone(),
            message,
            until: now + ASK_AGAIN,
        };
        book.rebuffs.insert(request.id.clone(), rebuff);
    }

    /// Whether a Service can have what a source gave; what is wrong, if not.
    fn check_answer(&self, request: &LeaseRequest, address: IpAddr) -> Result<(), String> {
        let pool = self
            .pools
            .get(&request.pool)
            .filter(|stocked| stocked.pool.external);
        let Some(stocked) = pool else {
            return Err("the pool has changed meanwhile".to_owned());
        };
        let wrong = |what: String| {
            Err(format!(
                "{address} is what it gave, {what}; mend the source or the pool"
            ))
        };
        if request.address.is_some_and(|asked| asked != address)
            || IpFamily::of(&address) != request.family
        {
            return wrong("which was not asked for".into());
        }
        if self.pool_of(&address) != Some(request.pool.as_str()) {
            return wrong("which is not among spec.addresses".into());
        }
        if stocked.pool.excludes(&address) {
            return wrong("which is among spec.excludedAddresses".into());
        }
        let reserved = stocked.pool.reserved_for(&address);
        if let Some(owner) = reserved.filter(|owner| **owner != request.service) {
            return wrong(format!("which is reserved for Service {owner}"));
        }
        if let Some(obstacle) = stocked
            .obstacle(&address)
            .filter(|_| request.address.is_none())
        {
            return wrong(format!("which {} has", obstacle.owner));
        }
        let mut others = self.holders.get(&address).into_iter().flatten();
        if let Some(other) = others.find(|uid| **uid != request.uid) {
            let key = self
                .holdings
                .get(other)
                .map(|holding| holding.claim.key.to_string());
            return wrong(format!("which Service {} has", key.unwrap_or_default()));
        }
        Ok(())
    }

    /// Whether a lease is being given back at this moment, so that it can't be asked
    /// for yet.
    pub fn is_returning(&self, request: &LeaseRequest) -> bool {
        let book = self.leases.books.get(&request.pool);
        book.is_some_and(|book| book.returning.contains_key(&request.id))
    }

    /// Whether a pool has leases to be given back.
    pub fn has_departing(&self, pool: &str) -> bool {
        let book = self.leases.books.get(pool);
        book.is_some_and(|book| !book.departing.is_empty())
    }

    /// The next lease of a pool to be given back to its source; it can't be asked for
    /// until [`Allocator::returned`].
    pub fn next_departing(&mut self, pool: &str) -> Option<String> {
        let book = self.leases.books.get_mut(pool)?;
        let (id, frees) = book.departing.pop_first()?;
        book.returning.insert(id.clone(), frees);
        Some(id)
    }

    /// How giving a lease back ended. One that failed is given back later.
    pub fn returned(&mut self, pool: &str, id: &str, done: bool) {
        let Some(book) = self.leases.books.get_mut(pool) else {
            return;
        };
        let Some(frees) = book.returning.remove(id) else {
            return;
        };
        if !done {
            book.doubt(id);
            book.departing.insert(id.to_owned(), frees);
            return;
        }
        book.lose(id);
        if frees {
            // There is room for those that were refused.
            book.rebuffs.clear();
            self.stirred = true;
        }
    }

    /// The moment at which a source is asked for its leases, for [`Allocator::audit`].
    pub fn audit_begins(&self, pool: &str) -> u64 {
        self.leases.books.get(pool).map_or(0, |book| book.clock)
    }

    /// Compares what the source of a pool lists with who has what: what nobody has is
    /// to be given back, and what Services have that is not listed is returned, to be
    /// asked for. `begun` is [`Allocator::audit_begins`] from before the list was
    /// asked for: what was learnt since is newer.
    pub fn audit(&mut self, pool: &str, listed: Vec<Lease>, begun: u64) -> Vec<LeaseRequest> {
        let book = self.leases.books.entry(pool.to_owned()).or_default();
        let ids: BTreeSet<String> = listed.iter().map(|lease| lease.id.clone()).collect();
        let gone = |(id, leased): (&String, &Leased)| {
            (leased.learnt <= begun && !ids.contains(id)).then(|| id.clone())
        };
        for id in book.leased.iter().filter_map(gone).collect::<Vec<_>>() {
            book.lose(&id);
            book.departing.remove(&id);
        }
        let mut orphans = Vec::new();
        for lease in listed {
            if !book.leased.contains_key(&lease.id) && !book.returning.contains_key(&lease.id) {
                orphans.push(lease.clone());
                book.learn(lease, true);
            }
        }
        for lease in orphans {
            if !self.holders.contains_key(&lease.address)
                && let Some(book) = self.leases.books.get_mut(pool)
            {
                book.departing.insert(lease.id, true);
            }
        }
        self.unleased(pool)
    }

    /// What Services have of a pool that its source does not know of.
    fn unleased(&self, pool: &str) -> Vec<LeaseRequest> {
        let (Some(stocked), Some(book)) = (self.pools.get(pool), self.leases.books.get(pool))
        else {
            return Vec::new();
        };
        let mut uids: Vec<&String> = stocked.tenants.keys().map(|(_, uid)| uid).collect();
        uids.dedup();
        let holdings = uids.into_iter().filter_map(|uid| self.holdings.get(uid));
        let mut seen = BTreeSet::new();
        holdings
            .flat_map(|holding| holding.all().map(move |address| (holding, address)))
            .filter(|(_, address)| {
                self.pool_of(address) == Some(pool)
                    && !book.by_address.contains_key(address)
                    && seen.insert(*address)
            })
            .map(|(holding, address)| {
                let claim = &holding.claim;
                let family = IpFamily::of(&address);
                LeaseRequest::of(pool, &claim.uid, &claim.key, family, Some(address))
            })
            .collect()
    }

    /// Takes what the source said when it was asked for an address that a Service has
    /// already. Returns whether what is said on the Service changes.
    pub fn reclaimed(&mut self, request: &LeaseRequest, said: Result<(), String>) -> bool {
        let Some(address) = request.address else {
            return false;
        };
        let held = self.holders.contains_key(&address);
        let book = self.leases.books.entry(request.pool.clone()).or_default();
        match said {
            Ok(()) => {
                let lease = Lease {
                    id: request.id.clone(),
                    address,
                };
                book.learn(lease, true);
                if !held {
                    // Its Service has left meanwhile.
                    book.departing.insert(request.id.clone(), true);
                }
                book.disowned.remove(&address).is_some()
            }
            Err(message) => {
                let before = book.disowned.insert(address, message.clone());
                before.as_ref() != Some(&message)
            }
        }
    }

    /// Whether [`Allocator::due`] has Services to be looked at because of what sources
    /// said.
    pub fn is_stirred(&self) -> bool {
        self.stirred || !self.nudged.is_empty()
    }

    /// Has a Service be looked at though nothing about it changed.
    pub fn nudge(&mut self, service: ServiceKey) {
        self.nudged.insert(service);
    }
}
