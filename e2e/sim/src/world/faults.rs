//! What goes wrong.

use std::collections::BTreeSet;

use super::{Api, DRAIN, Election, Job, Rc, SECOND, World};
use crate::schedule::Fault;

impl World {
    pub(super) fn fault(&mut self, fault: &Fault) -> Result<(), String> {
        self.note(|| format!("-- {fault}"));
        let all = (1 << self.nodes.len()) - 1;
        match fault {
            Fault::Crash(n) => {
                self.nodes[*n].machine = false;
                self.nodes[*n].link = false;
                self.kill(*n);
            }
            Fault::Kill(n) => self.kill(*n),
            Fault::Start(n) => return self.start(*n),
            Fault::Stall(n, time) => {
                let node = &mut self.nodes[*n];
                if node.election.is_some() && !node.stalled {
                    node.stalled = true;
                    let start = node.start;
                    self.job(self.now + time, Job::Resume(*n, start));
                    self.trouble_for(1 << n);
                }
            }
            Fault::Drain(n) => {
                let node = &mut self.nodes[*n];
                if node.runs() && !node.draining {
                    node.draining = true;
                    node.drained = self.now;
                    let start = node.start;
                    self.job(self.now + DRAIN, Job::DrainEnds(*n, start));
                    self.trouble_for(all);
                    return self.with(*n, Election::drain);
                }
            }
            Fault::LinkDown(n) => self.link(*n, false),
            Fault::LinkUp(n) => self.link(*n, true),
            Fault::Cut(from, to) => {
                self.cut[*to] |= 1 << from;
                self.trouble_for(1 << from | 1 << to);
            }
            Fault::Deafen(n) => {
                self.cut[*n] |= all & !(1 << n);
                self.trouble_for(1 << n);
            }
            Fault::Mute(n) => {
                for (other, cut) in self.cut.iter_mut().enumerate() {
                    if other != *n {
                        *cut |= 1 << n;
                    }
                }
                self.trouble_for(1 << n);
            }
            Fault::Unanswering(n) => {
                self.nodes[*n].mute.get_or_insert(self.now);
                self.trouble_for(all);
            }
            Fault::Answering => {
                for node in &mut self.nodes {
                    node.mute = None;
                }
                self.trouble_for(all);
            }
            Fault::Split(part) => {
                let part = part.iter().fold(0_u64, |set, n| set | 1 << n);
                for (n, cut) in self.cut.iter_mut().enumerate() {
                    *cut |= all & if part & (1 << n) == 0 { part } else { !part };
                }
                self.trouble_for(all);
            }
            Fault::Heal => {
                self.cut.fill(0);
                self.trouble_for(all);
            }
            Fault::Loss(p) => {
                self.loss = *p;
                self.trouble_for(all);
            }
            Fault::Exclude(n, out) => {
                let mut api = (*self.api).clone();
                api.excluded = if *out {
                    api.excluded | 1 << n
                } else {
                    api.excluded & !(1 << n)
                };
                self.publish(api);
            }
            Fault::Groups(count) => {
                let mut api = (*self.api).clone();
                api.groups = *count;
                self.publish(api);
            }
            Fault::ApiAway(nodes) => self.api_away(nodes),
            Fault::ApiBack => {
                for n in 0..self.nodes.len() {
                    self.nodes[n].api_away = false;
                    let at = self.now + self.rng.u64(1000..SECOND);
                    self.job(at, Job::News(n, self.api.clone()));
                }
            }
            Fault::Rebalance => {
                self.rebalanced = true;
                self.trouble_for(all);
                for n in 0..self.nodes.len() {
                    if self.nodes[n].runs() {
                        self.with(n, Election::rebalance)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn link(&mut self, n: usize, up: bool) {
        let node = &mut self.nodes[n];
        if !node.machine || node.link == up {
            return;
        }
        node.link = up;
        self.trouble_for(1 << n);
        let at = self.now + self.rng.u64(0..2000);
        self.job(at, Job::Carrier(n));
    }

    /// The API says something new; nodes hear of it by and by.
    fn publish(&mut self, mut api: Api) {
        if api.excluded == self.api.excluded && api.groups == self.api.groups {
            return;
        }
        api.number += 1;
        self.api = Rc::new(api);
        for n in 0..self.nodes.len() {
            let delay = match self.rng.u32(0..4) {
                0 => self.rng.u64(1000..SECOND),
                _ => self.rng.u64(1000..50_000),
            };
            self.job(self.now + delay, Job::News(n, self.api.clone()));
        }
    }

    fn api_away(&mut self, nodes: &BTreeSet<usize>) {
        for n in nodes {
            self.nodes[*n].api_away = true;
        }
    }
}
