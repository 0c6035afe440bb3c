//! The paths to the peers, as BFD sees them (RFC 5882).

use std::time::Instant;

use herald_bgp::{Input, PeerId};

use super::Engine;
use crate::bgp::bfd::{News, Wanted, Watched};

impl Engine {
    /// Has the paths watched to those peers that want it. A path that no session is
    /// to go up over is held down by our own word.
    pub(super) fn watch_paths(&mut self) {
        let mut wanted = Wanted::new();
        for (name, id) in &self.ids {
            let Some(peer) = self.peers.get(id) else {
                continue;
            };
            let Some(bfd) = &peer.settings.bfd else {
                continue;
            };
            let watched = wanted.entry(bfd.way.clone()).or_insert_with(|| Watched {
                config: bfd.config,
                admin_down: true,
                names: Vec::new(),
            });
            watched.names.push(name.clone());
            watched.admin_down &= peer.stopped;
        }
        self.inputs.paths.watch(wanted);
    }

    /// RFC 5882 §4.2: a session over a path that has failed ends at once.
    pub(super) fn heed(&mut self, news: &News) {
        self.touch();
        let (peer, why) = (news.way.peer, news.session.diagnostic.as_deref());
        if !news.failed {
            tracing::info!(%peer, state = news.session.state, why, "BFD");
            return;
        }
        tracing::warn!(%peer, why, "BFD: the path has failed");
        let now = Instant::now();
        let over = |id: &&PeerId| {
            let peer = self.peers.get(id);
            let bfd = peer.and_then(|peer| peer.settings.bfd.as_ref());
            bfd.is_some_and(|bfd| bfd.way == news.way)
        };
        let over: Vec<PeerId> = self.ids.values().filter(over).copied().collect();
        for id in over {
            self.speaker.handle(id, Input::BfdDown, now);
        }
    }
}
