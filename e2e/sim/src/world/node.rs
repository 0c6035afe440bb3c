//! What a speaker does, and what becomes of it.

use crate::invariants;
use crate::schedule::micros;

use super::{
    Api, Arc, BELIEVED, Candidate, Cause, Config, Datagram, Election, Event, Group, Heartbeat,
    Instant, JUDGE, Job, Micros, Rc, Rebalance, SECOND, SOCKET, Unanswered, View, World, spread,
};

impl World {
    /// Starts a speaker.
    pub(super) fn start(&mut self, n: usize) -> Result<(), String> {
        let session = self.rng.u64(1..);
        let node = &mut self.nodes[n];
        if node.election.is_some() {
            return Ok(());
        }
        (node.machine, node.link, node.stalled, node.draining) = (true, true, false, false);
        node.start += 1;
        node.view = None;
        node.wakes = None;
        node.socket.clear();
        node.reads = 0;
        let config = Config {
            node: node.id,
            session,
            profile: self.schedule.profile,
        };
        node.election = Some(Election::new(config, node.local(self.now)));
        if !node.api_away {
            let delay = self.rng.u64(5_000..200_000);
            self.job(self.now + delay, Job::News(n, self.api.clone()));
        }
        self.trouble_for(1 << n);
        self.with(n, Election::handle_timeout)
    }

    /// Ends a speaker without its doing anything about it.
    pub(super) fn kill(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.election = None;
        node.owned = 0;
        node.stalled = false;
        if std::mem::take(&mut node.draining) {
            node.drained = self.now;
        }
        self.trouble_for(1 << n);
    }

    /// Calls an election, and does what it says.
    pub(super) fn with(
        &mut self,
        n: usize,
        call: impl FnOnce(&mut Election, Instant),
    ) -> Result<(), String> {
        let node = &mut self.nodes[n];
        let now = node.local(self.now);
        let Some(election) = &mut node.election else {
            return Ok(());
        };
        let before = election.counters().received;
        call(election, now);
        self.summary.heartbeats += election.counters().received - before;
        while let Some(election) = &mut self.nodes[n].election
            && let Some(event) = election.poll_event()
        {
            self.follow(n, &event)?;
        }
        while let Some(election) = &mut self.nodes[n].election
            && let Some(transmit) = election.poll_transmit()
        {
            if transmit.detour {
                self.last_word(n, &transmit.heartbeat);
            } else {
                self.transmit(n, &transmit.heartbeat);
            }
        }
        let node = &mut self.nodes[n];
        let timeout = node.election.as_ref().and_then(Election::poll_timeout);
        if let Some(at) = timeout.filter(|_| timeout != node.wakes) {
            node.wakes = timeout;
            node.timer += 1;
            let timer = node.timer;
            // A little late, as any process is.
            let at = node.global(at).max(self.now) + self.rng.u64(0..300);
            self.job(at, Job::Wake(n, timer));
        }
        let node = &self.nodes[n];
        let done = node
            .election
            .as_ref()
            .is_some_and(|e| e.owned().next().is_none());
        if node.draining && done && self.now > node.drained + SECOND / 2 {
            return self.leave(n);
        }
        Ok(())
    }

    fn follow(&mut self, n: usize, event: &Event) -> Result<(), String> {
        match *event {
            Event::Announce { group, cause } => {
                let bit = self.bit(group);
                let node = &mut self.nodes[n];
                node.owned |= bit;
                if cause != Cause::Resumed {
                    node.took.insert(group, self.now);
                }
                self.summary.takes += 1;
                let name = self.group_name(group);
                let cause_named = self.cause_name(cause);
                self.note(|| format!("n{} announces {name} ({cause_named})", n + 1));
                let mut invariants = std::mem::take(&mut self.invariants);
                let result = invariants.taken(self, n, group, cause);
                self.invariants = invariants;
                result?;
                invariants::strict(self, group)?;
            }
            Event::Reannounce { group } => {
                let name = self.group_name(group);
                self.note(|| format!("n{} announces {name} again", n + 1));
            }
            Event::HandOver { group, to } => {
                self.nodes[n].owned &= !self.bit(group);
                let (name, to) = (self.group_name(group), self.number(to).unwrap_or(0));
                self.note(|| format!("n{} hands {name} over to n{}", n + 1, to + 1));
            }
            Event::Withdraw { group, why } => {
                self.nodes[n].owned &= !self.bit(group);
                let name = self.group_name(group);
                self.note(|| format!("n{} is silent about {name} ({why:?})", n + 1));
            }
            Event::Probe { node } => {
                let Some(other) = self.number(node) else {
                    return Ok(());
                };
                let there = self.nodes[other].machine && self.reaches(n, other);
                if there && self.reaches(other, n) {
                    let at = self.now + self.rng.u64(100..1000);
                    self.job(at, Job::Answer(n, other));
                }
            }
            Event::Peer { node, liveness } => {
                let other = self.number(node).unwrap_or(0);
                self.note(|| format!("n{} sees n{} {liveness:?}", n + 1, other + 1));
            }
            Event::Stalled { late } => {
                self.note(|| format!("n{} did not run for {} ms", n + 1, late.as_millis()));
            }
            Event::Impostor => return Err(format!("n{} hears itself", n + 1)),
        }
        Ok(())
    }

    fn cause_name(&self, cause: Cause) -> String {
        let name = |id| {
            self.number(id)
                .map_or("?".into(), |n| format!("n{}", n + 1))
        };
        match cause {
            Cause::Vacant => "nobody had it".into(),
            Cause::Resumed => "it had it before its stall".into(),
            Cause::Lost(id) => format!("{} lost it", name(id)),
            Cause::Drained(id) => format!("{} drains", name(id)),
            Cause::Ineligible(id) => format!("{} may not have it", name(id)),
            Cause::Unanswered(id) => format!("{} does not answer", name(id)),
            Cause::Rebalanced(id) => format!("rebalanced from {}", name(id)),
        }
    }

    fn transmit(&mut self, n: usize, heartbeat: &Heartbeat) {
        let datagram = if self.schedule.bytes {
            Datagram::Sealed(Rc::new(self.keys.seal(heartbeat.to_bytes())))
        } else {
            Datagram::Plain(Rc::new(heartbeat.clone()))
        };
        for other in 0..self.nodes.len() {
            if other == n || !self.reaches(n, other) || self.nodes[other].election.is_none() {
                continue;
            }
            if self.loss > 0 && self.rng.u32(0..1000) < self.loss {
                continue;
            }
            let delay: Micros = match self.rng.u32(0..50) {
                0 => self.rng.u64(50..5000),
                _ => self.rng.u64(50..300),
            };
            self.job(self.now + delay, Job::Deliver(other, datagram.clone()));
        }
    }

    /// Sends by another network what can't be said on the segment.
    fn last_word(&mut self, n: usize, heartbeat: &Heartbeat) {
        let heartbeat = Rc::new(heartbeat.clone());
        for other in (0..self.nodes.len()).filter(|other| *other != n) {
            if self.nodes[n].machine && self.rng.u32(0..4) != 0 {
                let at = self.now + self.rng.u64(200..3000);
                self.job(at, Job::LastWord(other, heartbeat.clone()));
            }
        }
    }

    /// It is believed if it comes from a session that was heard on the segment.
    pub(super) fn hear_last_word(&mut self, n: usize, word: &Heartbeat) -> Result<(), String> {
        if self.nodes[n].stalled {
            return Ok(());
        }
        self.with(n, |election, now| {
            if election.knows(word.sender, word.session) {
                election.handle_heartbeat(word, now);
            }
        })
    }

    /// Asks, as the speakers' checkers do, for what others own, and says of whom
    /// it got no answer. Who gets none from anybody is deaf, and says nothing.
    pub(super) fn judge(&mut self, n: usize) -> Result<(), String> {
        self.job(self.now + JUDGE, Job::Judge(n));
        if !self.nodes[n].runs() {
            return Ok(());
        }
        let heard = |other: usize| self.reaches(n, other) && self.reaches(other, n);
        let others = (0..self.nodes.len()).filter(|other| *other != n);
        let hears = others
            .clone()
            .any(|other| self.nodes[other].machine && heard(other));
        let mute = others.filter(|other| {
            let node = &self.nodes[*other];
            let since = node.mute.filter(|_| node.runs() && node.owned != 0);
            since.is_some_and(|since| self.now >= since + BELIEVED)
        });
        let unanswered: Vec<Unanswered> = mute
            .filter(|_| hears)
            .map(|other| Unanswered {
                owner: self.nodes[other].id,
                group: None,
            })
            .collect();
        if unanswered.is_empty() && !self.nodes[n].complains {
            return Ok(());
        }
        if self.nodes[n].complains == unanswered.is_empty() {
            // From now on others may move what is theirs.
            self.nodes[n].complains = !unanswered.is_empty();
            self.trouble_for((1 << self.nodes.len()) - 1);
        }
        self.with(n, |election, now| election.set_unanswered(unanswered, now))
    }

    pub(super) fn reaches(&self, from: usize, to: usize) -> bool {
        self.cut[to] & (1 << from) == 0 && self.nodes[from].link && self.nodes[to].link
    }

    pub(super) fn deliver(&mut self, n: usize, datagram: Datagram) -> Result<(), String> {
        let node = &mut self.nodes[n];
        if !node.link || node.socket.len() >= SOCKET {
            return Ok(());
        }
        let first = node.socket.is_empty();
        node.socket.push((node.local(self.now), datagram));
        if node.stalled {
            return Ok(());
        }
        let (reads, start) = (node.reads, node.start);
        if self.now >= reads {
            return self.read(n);
        }
        if first {
            self.job(reads, Job::Read(n, start));
        }
        Ok(())
    }

    /// Reads what has come, and does what is due, as the speakers do: where many come,
    /// they let them gather.
    pub(super) fn read(&mut self, n: usize) -> Result<(), String> {
        let node = &mut self.nodes[n];
        let waiting = std::mem::take(&mut node.socket);
        if !waiting.is_empty() {
            let gap = node.election.as_ref().map(Election::gap);
            let rest = micros(gap.unwrap_or_default());
            let many = self.now < node.reads + rest;
            node.reads = self.now + if many { rest } else { 0 };
        }
        let mut heartbeats = Vec::new();
        for (came, datagram) in waiting {
            let heartbeat = match datagram {
                Datagram::Plain(heartbeat) => heartbeat,
                Datagram::Sealed(bytes) => {
                    let message = self.keys.open(&bytes).map_err(|error| error.to_string())?;
                    Rc::new(Heartbeat::parse(message).map_err(|error| error.to_string())?)
                }
            };
            heartbeats.push((came, heartbeat));
        }
        self.with(n, |election, now| {
            for (came, heartbeat) in heartbeats {
                election.take_heartbeat(&heartbeat, came, now);
            }
            election.handle_timeout(now);
        })
    }

    /// A stalled speaker runs again: its timer and its socket are both ready.
    pub(super) fn resume(&mut self, n: usize, start: u64) -> Result<(), String> {
        if self.nodes[n].start != start || !self.nodes[n].stalled {
            return Ok(());
        }
        self.note(|| format!("n{} runs again", n + 1));
        // What it owned before, it owns on until it finds out: nothing can
        // happen in between, as finding out is the first that it does.
        self.nodes[n].stalled = false;
        if self.rng.bool() {
            self.with(n, Election::handle_timeout)?;
        }
        self.read(n)?;
        self.trouble_for(1 << n);
        Ok(())
    }

    /// What the API said reaches a node, unless that knows more already.
    pub(super) fn news(&mut self, n: usize, api: &Rc<Api>) -> Result<(), String> {
        let node = &mut self.nodes[n];
        if node.api_away
            || node
                .view
                .as_ref()
                .is_some_and(|view| view.number >= api.number)
        {
            return Ok(());
        }
        if node.stalled {
            let at = self.now + SECOND / 10;
            self.job(at, Job::News(n, api.clone()));
            return Ok(());
        }
        node.view = Some(api.clone());
        // Views differ for a while now, and that is no failure of a node.
        self.last_trouble = self.now;
        self.trouble_for(1 << n);
        let view = self.view(api);
        self.with(n, |election, now| election.set_view(view, now))
    }

    fn view(&self, api: &Api) -> View {
        let candidates: Arc<[Candidate]> = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(n, _)| api.excluded & (1 << n) == 0)
            .map(|(_, node)| Candidate::new(node.id))
            .collect();
        let wanted: Vec<_> = self.group_ids[..api.groups]
            .iter()
            .map(|group| (*group, candidates.clone()))
            .collect();
        let groups = wanted
            .iter()
            .zip(spread(&wanted))
            .map(|((id, candidates), first)| Group {
                first,
                policy: self.schedule.policy,
                profile: self.schedule.profile,
                rebalance: if self.schedule.rebalance {
                    Rebalance::OnJoin
                } else {
                    Rebalance::Manual
                },
                ..Group::new(*id, candidates.clone())
            })
            .collect();
        View {
            number: api.number,
            groups,
            voters: self.ids.keys().copied().collect(),
        }
    }

    /// The end of a drain.
    pub(super) fn leave(&mut self, n: usize) -> Result<(), String> {
        self.note(|| format!("n{} leaves", n + 1));
        self.nodes[n].draining = false;
        self.nodes[n].drained = self.now;
        self.with(n, Election::leave)?;
        self.kill(n);
        Ok(())
    }
}
