//! The routers at the other ends of interfaces, for unnumbered peers: sockets around
//! [`RouterDiscovery`], a task for each interface.

use std::collections::BTreeMap;
use std::time::Instant;

use herald_l2::{Mac, Neighbor, RouterDiscovery};
use herald_net::{Interface, RouterSocket};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Longer than any advertisement on Ethernet.
const MESSAGE: usize = 1 << 11;

/// What is at the other end of interfaces, by their index; or why that can't be known.
pub(super) type Neighbors = BTreeMap<u32, Result<Neighbor, String>>;

/// An interface that a router is sought on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    mac: Mac,
    /// Another state is another chance, and maybe another router.
    running: bool,
    carrier_changes: u32,
}

impl Link {
    pub(super) fn of(interface: &Interface) -> Self {
        Self {
            mac: Mac(interface.mac.unwrap_or_default()),
            running: interface.running,
            carrier_changes: interface.carrier_changes,
        }
    }
}

/// A task that seeks on an interface, and what it is told.
struct Search {
    link: watch::Sender<Link>,
    task: AbortHandle,
}

/// Seeks routers.
pub(super) struct Seeker {
    searches: BTreeMap<u32, Search>,
    found: watch::Sender<Neighbors>,
    news: watch::Receiver<Neighbors>,
}

impl Seeker {
    pub(super) fn new() -> Self {
        let (found, news) = watch::channel(Neighbors::new());
        Self {
            searches: BTreeMap::new(),
            found,
            news,
        }
    }

    /// Seeks on these interfaces, and on no others. Must be called within a tokio
    /// runtime.
    pub(super) fn seek(&mut self, wanted: BTreeMap<u32, Link>) {
        let unwanted = |index: &u32, search: &mut Search| {
            let goes = !wanted.contains_key(index);
            if goes {
                search.task.abort();
                self.found.send_modify(|found| drop(found.remove(index)));
            }
            !goes
        };
        self.searches
            .retain(|index, search| unwanted(index, search));
        for (index, link) in wanted {
            if let Some(search) = self.searches.get(&index) {
                search.link.send_if_modified(|before| {
                    let changed = *before != link;
                    *before = link;
                    changed
                });
            } else {
                let (sender, receiver) = watch::channel(link);
                let task = tokio::spawn(search(index, receiver, self.found.clone()));
                let search = Search {
                    link: sender,
                    task: task.abort_handle(),
                };
                self.searches.insert(index, search);
            }
        }
    }

    /// What is found so far.
    pub(super) fn found(&mut self) -> Neighbors {
        self.news.borrow_and_update().clone()
    }

    /// Returns when that is different.
    pub(super) async fn changed(&mut self) {
        // Its sender is ours.
        let _ = self.news.changed().await;
    }
}

impl Drop for Seeker {
    fn drop(&mut self) {
        for search in self.searches.values() {
            search.task.abort();
        }
    }
}

/// Seeks on an interface for as long as it is wanted.
async fn search(index: u32, mut link: watch::Receiver<Link>, found: watch::Sender<Neighbors>) {
    let tell = |what: Result<Neighbor, String>| {
        found.send_if_modified(|found| {
            let changed = found.get(&index) != Some(&what);
            found.insert(index, what);
            changed
        });
    };
    loop {
        let mut now = *link.borrow_and_update();
        let socket = match RouterSocket::open(index) {
            Ok(socket) => socket,
            Err(error) => {
                tell(Err(format!(
                    "routers on this interface can't be heard: {error}; the speaker needs the \
                     capability NET_RAW"
                )));
                if link.changed().await.is_err() {
                    return;
                }
                continue;
            }
        };
        let mut discovery = RouterDiscovery::new(now.mac, Instant::now());
        let mut buffer = [0; MESSAGE];
        loop {
            let mut failed = false;
            while let Some(transmit) = discovery.poll_transmit() {
                failed |= socket.send(&transmit.message, transmit.to).is_err();
            }
            if failed {
                discovery.not_sent(Instant::now());
            }
            tell(Ok(discovery.neighbor()));
            let due = discovery.poll_timeout();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                received = socket.receive(&mut buffer) => {
                    let Ok(datagram) = received else { break };
                    let message = buffer.get(..datagram.length).unwrap_or_default();
                    discovery.handle(datagram.source, datagram.hops, message, Instant::now());
                }
                changed = link.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let next = *link.borrow_and_update();
                    if next.mac != now.mac {
                        break;
                    }
                    now = next;
                    if now.running {
                        discovery.link_came_up(Instant::now());
                    }
                }
                () = timer => discovery.handle_timeout(Instant::now()),
            }
        }
        // The interface has gone, or is another: not in a hurry, should it fail again.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
