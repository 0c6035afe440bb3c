//! How a connection ends, and what comes after it.

use std::time::{Duration, Instant};

use crate::notification::{Code, Fault, Notification};
use crate::session::connection::{Connection, Stage};
use crate::session::{ConnectionId, DAMPED, Dial, Down, Output, Session, Stop, Told};

/// The pause before the first new attempt.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A session that was up for so long has shown that it works: what fails after
/// it is a first failure again.
const PROVEN: Duration = Duration::from_secs(30);

impl Session {
    pub(super) fn bfd_down(&mut self, now: Instant) {
        let established = self.connections.iter().find(|c| c.is_established());
        if let Some(id) = established.map(|c| c.id) {
            // RFC 9384 §3. Traffic does not get through: the peer must not
            // keep our routes, as it would over another NOTIFICATION.
            let detail = "BFD found the path to the peer down";
            self.cease(id, Code::BFD_DOWN.into(), true, detail, now);
        }
    }

    pub(super) fn reset(&mut self, code: Code, now: Instant) {
        self.forgive();
        for id in self.ids() {
            let detail = "the session begins anew with other settings";
            self.cease(id, code.into(), false, detail, now);
        }
        if let Dial::Under(..) = self.dial {
            self.stop_dialling();
        }
        if self.running && !self.config.passive {
            self.dial = Dial::Pause(now);
        }
    }

    pub(super) fn stop(&mut self, stop: &Stop, now: Instant) {
        for id in self.ids() {
            match stop {
                Stop::Shutdown(text) => {
                    let code = Code::ADMINISTRATIVE_SHUTDOWN;
                    let notification = Notification::with_communication(code, text);
                    let detail = format!("shut down: {text}");
                    self.cease(id, notification, true, &detail, now);
                }
                Stop::Deconfigured => {
                    let detail = "the peer was taken out of the configuration";
                    self.cease(id, Code::PEER_DECONFIGURED.into(), true, detail, now);
                }
                Stop::Restart => self.end(id, None, Down::Restart, now),
            }
        }
        self.stop_dialling();
        if std::mem::replace(&mut self.running, false) {
            self.outputs.push_back(Output::Stopped);
        }
    }

    /// Ends a connection with a Cease; one that is meant for good becomes a
    /// hard reset where the peer would else keep our routes (RFC 8538 §3.1).
    pub(super) fn cease(
        &mut self,
        id: ConnectionId,
        notification: Notification,
        for_good: bool,
        detail: &str,
        now: Instant,
    ) {
        let Some(at) = self.at(id) else {
            return;
        };
        let connection = &self.connections[at];
        let kept = connection.is_established()
            && connection
                .terms()
                .is_some_and(|terms| terms.notifications_kept);
        let notification = if for_good && kept {
            notification.into_hard_reset()
        } else {
            notification
        };
        let down = Down::Sent {
            notification: notification.clone(),
            detail: detail.into(),
        };
        self.end(id, Some(notification), down, now);
    }

    pub(super) fn fault(&mut self, id: ConnectionId, fault: Fault, now: Instant) {
        let down = Down::Sent {
            notification: fault.notification.clone(),
            detail: fault.detail.into_owned(),
        };
        self.end(id, Some(fault.notification), down, now);
    }

    /// Ends a connection from our side.
    pub(super) fn end(
        &mut self,
        id: ConnectionId,
        notification: Option<Notification>,
        down: Down,
        now: Instant,
    ) {
        if let Some(connection) = self.close(id, notification) {
            self.ended(&connection, down, now);
        }
    }

    /// The peer ended a connection.
    pub(super) fn drop_connection(&mut self, id: ConnectionId, down: Down, now: Instant) {
        if let Dial::Under(under, _) = self.dial
            && under == id
        {
            self.connect_failed(id, "it was closed", now);
        }
        self.end(id, None, down, now);
    }

    /// Closes a connection without regard to the session.
    pub(super) fn close(
        &mut self,
        id: ConnectionId,
        notification: Option<Notification>,
    ) -> Option<Connection> {
        let connection = self.connections.swap_remove(self.at(id)?);
        let mut last = Vec::new();
        if let Some(notification) = notification {
            last.extend_from_slice(connection.outbox.unfinished());
            notification.encode(&mut last);
        }
        self.outputs.push_back(Output::Close {
            connection: id,
            last,
        });
        Some(connection)
    }

    /// What a connection's end means for the session.
    pub(super) fn ended(&mut self, connection: &Connection, down: Down, now: Instant) {
        // A peer that ends what it began goes at its own pace, and a path that failed
        // is no fault of the peer's.
        let fault = match &down {
            Down::Sent { notification, .. } => {
                let ended = notification.inner();
                ended.as_ref().unwrap_or(notification).code != Code::BFD_DOWN
            }
            _ => false,
        };
        if let Stage::Established(_, since) = connection.stage {
            if now.saturating_duration_since(since) >= PROVEN {
                self.failures = 0;
                self.errors = 0;
            }
            self.errors += u32::from(fault);
            self.told = Told::All;
            self.last_error = Some(down.clone());
            self.outputs.push_back(Output::Down(down));
            self.retry(now);
        } else if self.connections.is_empty() {
            self.errors += u32::from(fault);
            self.failed(down, now);
        }
        // Else what comes of the attempt is for the other connection to tell.
    }

    pub(super) fn failed(&mut self, down: Down, now: Instant) {
        self.last_error = Some(down.clone());
        self.outputs.push_back(Output::Failed(down));
        self.retry(now);
    }

    /// The pause before the next attempt, longer each time; none is made while
    /// another connection is there.
    pub(super) fn retry(&mut self, now: Instant) {
        let factor = 1 << self.failures.min(16);
        let longest = self.config.connect_retry;
        let pause = self.pause((FIRST_PAUSE * factor).min(longest));
        self.failures = self.failures.saturating_add(1);
        let damped = self.errors >= DAMPED;
        let idle = self.running && self.connections.is_empty();
        // A peer that is only waited for needs the pause to be refused in.
        if idle && !matches!(self.dial, Dial::Under(..)) && (damped || !self.config.passive) {
            self.dial = Dial::Pause(now + pause);
        }
    }
}
