//! The gate every call passes: record, crash, rate limit, faults, then the
//! work.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use herald_fakecloud::wire::HostEntry;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use hyper::body::Bytes;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::actions::{self, Action, Context, Dates, Kind};
use crate::calls::{CallLog, Outcome};
use crate::clock::Clock;
use crate::config::{Config, Quotas, Timing};
use crate::error::ApiError;
use crate::faults::{Effect, Faults, Held, Phase};
use crate::model::Region;
use crate::params::{Form, Service};
use crate::scope::Caller;
use crate::throttle::{Buckets, Throttling};
use crate::xml::Xml;

/// The connection is to be closed without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the connection was closed without an answer")]
pub struct Cut;

/// One account in one region, and what it remembers.
#[derive(Debug, Default)]
pub(crate) struct Place {
    pub region: Region,
    buckets: Buckets,
    /// What the region was until then, oldest first; only as far back as
    /// describes lag.
    past: VecDeque<(Duration, Region)>,
}

impl Place {
    pub fn new(region: Region) -> Self {
        Self {
            region,
            ..Self::default()
        }
    }

    /// The region as it was at that time.
    fn at(&mut self, time: Option<Duration>) -> &mut Region {
        let Some(time) = time else {
            return self
                .past
                .front_mut()
                .map_or(&mut self.region, |(_, region)| region);
        };
        self.past
            .iter_mut()
            .find(|(until, _)| *until > time)
            .map_or(&mut self.region, |(_, region)| region)
    }

    fn remember(&mut self, now: Duration, timing: &Timing) {
        let lag = timing.elbv2_lag.max(timing.ec2_lag);
        if lag == Duration::ZERO {
            return;
        }
        self.past
            .retain(|(until, _)| until.saturating_add(lag) > now);
        self.past.push_back((now, self.region.clone()));
    }
}

/// Everything behind the one lock. Nobody awaits while holding it.
#[derive(Debug)]
pub(crate) struct World {
    pub clock: Clock,
    pub faults: Faults,
    pub calls: CallLog,
    pub throttling: Option<Throttling>,
    pub timing: Timing,
    pub quotas: Quotas,
    pub places: BTreeMap<(String, String), Place>,
    /// Names of active load balancers, with a data path.
    pub hosts: Vec<HostEntry>,
}

impl World {
    fn new(config: &Config) -> Self {
        let mut world = Self {
            clock: Clock::start(config.pace),
            faults: Faults::default(),
            calls: CallLog::default(),
            throttling: config.throttling.clone(),
            timing: config.timing,
            quotas: config.quotas,
            places: BTreeMap::new(),
            hosts: Vec::new(),
        };
        let (account, region) = (&config.fixtures.account, &config.fixtures.region);
        let place = world.place(account, region);
        place.region.real_checks = config.data_path.is_some();
        place.region.add(&config.fixtures);
        world
    }

    pub fn place(&mut self, account: &str, region: &str) -> &mut Place {
        self.places
            .entry((account.to_owned(), region.to_owned()))
            .or_insert_with(|| Place::new(Region::empty(account, region)))
    }
}

/// Shared by all tasks.
#[derive(Debug)]
pub(crate) struct Shared {
    pub config: Config,
    pub stopping: CancellationToken,
    world: Mutex<World>,
    changed: watch::Sender<()>,
    resets: watch::Sender<u64>,
}

impl Shared {
    pub fn new(config: Config) -> Self {
        Self {
            world: Mutex::new(World::new(&config)),
            config,
            stopping: CancellationToken::new(),
            changed: watch::Sender::new(()),
            resets: watch::Sender::new(0),
        }
    }

    /// The world, for as long as the guard lives. A panic elsewhere does not
    /// take it away: every change to it is whole or refused.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Back to the fixtures. Calls that wait are cut.
    pub fn reset(&self) {
        let mut fresh = World::new(&self.config);
        {
            let mut world = self.world();
            // Numbers go on, so that a call of before is not taken for one of
            // after.
            world.calls.clear();
            fresh.calls = std::mem::take(&mut world.calls);
            *world = fresh;
        }
        self.resets.send_modify(|resets| *resets += 1);
        self.notify();
    }

    /// Switches token buckets on (full ones) or off.
    pub fn throttle(&self, throttling: Option<Throttling>) {
        let mut world = self.world();
        world.throttling = throttling;
        for place in world.places.values_mut() {
            place.buckets = Buckets::default();
        }
    }

    /// Tells the data path that there may be something to do.
    pub fn notify(&self) {
        self.changed.send_replace(());
    }

    /// Hears [`notify`](Self::notify).
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Answers a call of a service.
    pub async fn call(self: &Arc<Self>, request: Request<Bytes>) -> Result<Response<Bytes>, Cut> {
        let parsed = Parsed::of(&request, &self.config);
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err((service, error)) => return Ok(respond(service, Err(error), None, 0)),
        };
        let service = parsed.action.service;
        let mut call = Call::begin(Arc::clone(self), parsed);
        let result = call.run().await;
        call.finish(&result);
        let number = call.number;
        result.map(|result| respond(service, result, Some(call.parsed.action), number))
    }
}

/// A call that was understood.
struct Parsed {
    action: &'static Action,
    form: Form,
    caller: Caller,
}

impl Parsed {
    fn of(request: &Request<Bytes>, config: &Config) -> Result<Self, (Service, ApiError)> {
        let authorization = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let query = request.uri().query().unwrap_or_default();
        let bytes = match *request.method() {
            Method::GET => query.as_bytes(),
            _ => request.body(),
        };
        let form = Form::parse(bytes).map_err(|error| (Service::Elbv2, error))?;
        let version = form.get("Version").unwrap_or_default();
        let service = Service::from_version(version);
        let name = form.get("Action").unwrap_or_default();
        let caller = Caller::of(authorization, service, name, &config.fixtures)?;
        let service = caller.service;
        if version != service.version() {
            let error = ApiError::new(
                "InvalidAction",
                format!("Could not find operation {name} for version {version}"),
            );
            return Err((service, error));
        }
        let action = actions::find(service, name).ok_or_else(|| {
            let error = ApiError::new(
                "InvalidAction",
                format!("The action {name} is not valid for this web service."),
            );
            (service, error)
        })?;
        Ok(Self {
            action,
            form,
            caller,
        })
    }
}

/// What is to happen to a call, decided when it came.
enum Lot {
    Dead,
    Throttled,
    Suffers(Effect, Phase),
    Fine,
}

/// One call on its way. Dropped before it is finished, which is what happens
/// when the caller goes away, it is noted as abandoned.
struct Call {
    shared: Arc<Shared>,
    parsed: Parsed,
    number: u64,
    lot: Lot,
    finished: bool,
}

type Answer = Result<Result<String, ApiError>, Cut>;

impl Call {
    fn begin(shared: Arc<Shared>, parsed: Parsed) -> Self {
        let mut guard = shared.world();
        let world = &mut *guard;
        let now = world.clock.now();
        let Parsed {
            action,
            form,
            caller,
        } = &parsed;
        let number = world
            .calls
            .begin(action, form, (&caller.account, &caller.region), now);
        let instant = world.clock.instant(now);
        let lot = if world.faults.is_crashed() {
            Lot::Dead
        } else if let Some(sizes) = world.throttling.clone()
            && !world
                .place(&caller.account, &caller.region)
                .buckets
                .take(action, &sizes, instant)
        {
            Lot::Throttled
        } else if let Some((effect, phase)) = world.faults.take(action, form) {
            if (&effect, phase) == (&Effect::Crash, Phase::Before) {
                world.faults.crash();
            }
            Lot::Suffers(effect, phase)
        } else {
            Lot::Fine
        };
        drop(guard);
        Self {
            shared,
            parsed,
            number,
            lot,
            finished: false,
        }
    }

    async fn run(&self) -> Answer {
        let service = self.parsed.action.service;
        match &self.lot {
            Lot::Dead => return self.dead(Phase::Before).await,
            Lot::Throttled => return Ok(Err(ApiError::throttled(service))),
            Lot::Suffers(effect, Phase::Before) => {
                if let Some(answer) = self.suffer(effect, Phase::Before).await {
                    return answer;
                }
            }
            Lot::Suffers(_, Phase::After) | Lot::Fine => {}
        }
        let Some(result) = self.work() else {
            return self.dead(Phase::Before).await;
        };
        match &self.lot {
            Lot::Suffers(effect, Phase::After) => match self.suffer(effect, Phase::After).await {
                Some(answer) => answer,
                None => Ok(result),
            },
            _ => Ok(result),
        }
    }

    /// What an effect makes of the call; none to go on.
    async fn suffer(&self, effect: &Effect, phase: Phase) -> Option<Answer> {
        match effect {
            Effect::Error {
                status,
                code,
                message,
            } => {
                let error = ApiError::new(code, message).with_status(*status);
                Some(Ok(Err(error)))
            }
            Effect::Throttle => Some(Ok(Err(ApiError::throttled(self.parsed.action.service)))),
            Effect::Cut => Some(Err(Cut)),
            Effect::Crash => Some(self.dead(phase).await),
            Effect::Hang => {
                self.wait("hang", phase, std::future::pending()).await;
                Some(Err(Cut))
            }
            Effect::Hold => {
                let mut releases = self.shared.world().faults.releases();
                let released = async move {
                    if releases.changed().await.is_err() {
                        // The fake is reset, which `wait` sees.
                        std::future::pending::<()>().await;
                    }
                };
                let goes_on = self.wait("hold", phase, released).await;
                (!goes_on).then_some(Err(Cut))
            }
        }
    }

    /// Hangs until callers live again.
    async fn dead(&self, phase: Phase) -> Answer {
        let mut revivals = self.shared.world().faults.revivals();
        let revived = async move {
            let _ = revivals.changed().await;
        };
        self.wait("crash", phase, revived).await;
        Err(Cut)
    }

    /// Waits; whether what it waited for came, and not a reset or the end of the
    /// fake.
    async fn wait(&self, why: &'static str, phase: Phase, event: impl Future<Output = ()>) -> bool {
        let mut resets = self.shared.resets.subscribe();
        self.shared.world().faults.hold(Held {
            call: self.number,
            action: self.parsed.action.name.to_owned(),
            why,
            phase,
        });
        let came = tokio::select! {
            () = event => true,
            // The sender lives in `shared`, as long as we do.
            _ = resets.changed() => false,
            () = self.shared.stopping.cancelled() => false,
        };
        self.shared.world().faults.let_go(self.number);
        came
    }

    /// Does the work; none if callers died meanwhile.
    fn work(&self) -> Option<Result<String, ApiError>> {
        let Parsed {
            action,
            form,
            caller,
        } = &self.parsed;
        let mut guard = self.shared.world();
        let world = &mut *guard;
        if world.faults.is_crashed() {
            return None;
        }
        let now = world.clock.now();
        let (timing, quotas) = (world.timing, world.quotas);
        let lag = match action.service {
            Service::Elbv2 => timing.elbv2_lag,
            Service::Ec2 => timing.ec2_lag,
            Service::Sts => Duration::ZERO,
        };
        let context = Context {
            now,
            dates: Dates(world.clock),
            timing: &timing,
            quotas: &quotas,
            access_key: &caller.access_key,
        };
        let params = form.params(action.service);
        // What every call has is nobody's to read.
        let _ = (params.text("Action"), params.text("Version"));
        let place = world.place(&caller.account, &caller.region);
        let region = match action.kind {
            Kind::Write => {
                place.remember(now, &timing);
                &mut place.region
            }
            Kind::Read if lag > Duration::ZERO => place.at(now.checked_sub(lag)),
            Kind::Read => &mut place.region,
        };
        region.settle(now);
        let mut body = Xml::fragment();
        let result = (action.run)(region, &context, &params, &mut body);
        world.calls.done(self.number);
        if matches!(self.lot, Lot::Suffers(Effect::Crash, Phase::After)) {
            world.faults.crash();
        }
        drop(guard);
        if action.kind == Kind::Write {
            self.shared.notify();
        }
        Some(result.map(|()| envelope(action, &body, self.number)))
    }

    fn finish(&mut self, result: &Answer) {
        self.finished = true;
        self.note(match result {
            Ok(Ok(_)) => Outcome::Ok,
            Ok(Err(error)) => Outcome::Error(error.code.clone()),
            Err(Cut) => Outcome::Cut,
        });
    }

    fn note(&self, outcome: Outcome) {
        tracing::debug!(action = self.parsed.action.name, ?outcome, "call");
        let mut world = self.shared.world();
        let now = world.clock.now();
        world.faults.let_go(self.number);
        world.calls.finish(self.number, outcome, now);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.finished {
            self.note(Outcome::Abandoned);
        }
    }
}

fn request_id(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

/// The whole answer around what the action wrote.
fn envelope(action: &Action, body: &Xml, number: u64) -> String {
    let mut xml = Xml::document();
    let name = action.name;
    let id = request_id(number);
    xml.root(
        &format!("{name}Response"),
        action.service.namespace(),
        |x| {
            match action.service {
                Service::Ec2 => x.text("requestId", id).raw(body),
                Service::Elbv2 | Service::Sts => x
                    .node(&format!("{name}Result"), |x| {
                        x.raw(body);
                    })
                    .node("ResponseMetadata", |x| {
                        x.text("RequestId", id);
                    }),
            };
        },
    );
    xml.finish()
}

fn respond(
    service: Service,
    result: Result<String, ApiError>,
    action: Option<&Action>,
    number: u64,
) -> Response<Bytes> {
    let id = request_id(number);
    let (status, text) = match result {
        Ok(text) => (http::StatusCode::OK, text),
        Err(error) => {
            tracing::debug!(action = action.map(|a| a.name), %error, "refused");
            (error.status_code(), error.document(service, &id))
        }
    };
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-amzn-requestid", id);
    }
    response
}
