use std::fs::File;

use herald_bfd::State;
use herald_telemetry::Registry;
use nix::sched::{CloneFlags, setns};

use super::*;
use crate::netns::{inside, must};

const LINK: &str = "
    set -e
    mount -t tmpfs none /run
    ip link set lo up
    ip netns add far
    ip link add near0 type veth peer name far0 netns far
    ip link set near0 up
    ip addr add 10.20.0.1/24 dev near0
    ip -n far link set lo up
    ip -n far link set far0 up
    ip -n far addr add 10.20.0.2/24 dev far0
";

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::register(&mut Registry::default()))
}

fn way(peer: &str) -> Way {
    Way {
        peer: peer.parse().unwrap(),
        local: None,
        interface: None,
        device: None,
        minimum_ttl: None,
    }
}

fn wanted(peer: &str, admin_down: bool) -> Wanted {
    let watched = Watched {
        config: SessionConfig {
            desired_min_tx: Duration::from_millis(50),
            required_min_rx: Duration::from_millis(50),
            ..SessionConfig::default()
        },
        admin_down,
        names: vec!["peer".into()],
    };
    [(way(peer), watched)].into()
}

/// What `act` gives in the other namespace.
fn in_far<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let act = || {
        let namespace = File::open("/run/netns/far").unwrap();
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        act()
    };
    std::thread::spawn(act).join().unwrap()
}

/// A client whose thread runs in the other namespace.
fn far() -> Client {
    in_far(|| start(metrics()).0)
}

async fn until(client: &mut Client, state: State) -> News {
    let come = async {
        loop {
            let news = client.news().await.unwrap();
            if news.session.state == state.to_string() {
                return news;
            }
        }
    };
    let limit = Duration::from_secs(10);
    let news = tokio::time::timeout(limit, come).await;
    news.unwrap_or_else(|_| panic!("it never was {state}"))
}

#[tokio::test]
async fn two_ends_find_a_path_and_its_failure() {
    if !inside("bgp::bfd::tests::two_ends_find_a_path_and_its_failure") {
        return;
    }
    must(LINK).await;
    let (mut near, ended) = start(metrics());
    let mut far = far();
    near.watch(wanted("10.20.0.2", false));
    far.watch(wanted("10.20.0.1", false));
    until(&mut near, State::Up).await;
    until(&mut far, State::Up).await;

    // What one side's people do says nothing of the path.
    far.watch(wanted("10.20.0.1", true));
    let down = until(&mut near, State::Down).await;
    assert!(!down.failed);
    let why = down.session.diagnostic.unwrap();
    assert!(why.contains("administratively"), "{why}");
    far.watch(wanted("10.20.0.1", false));
    until(&mut near, State::Up).await;
    until(&mut far, State::Up).await;

    must("ip -n far link set far0 down").await;
    let down = until(&mut near, State::Down).await;
    assert!(down.failed);
    let why = down.session.diagnostic.unwrap();
    assert!(why.contains("detection time"), "{why}");
    must("ip -n far link set far0 up").await;
    until(&mut near, State::Up).await;

    // The last words of one that ends.
    drop(far);
    let down = until(&mut near, State::Down).await;
    assert!(!down.failed, "{down:?}");
    drop(near);
    tokio::time::timeout(2 * LAST_WORDS, ended)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_told() {
    if !inside("bgp::bfd::tests::a_port_that_is_taken_is_told") {
        return;
    }
    must(LINK).await;
    let _taken = std::net::UdpSocket::bind("0.0.0.0:3784").unwrap();
    let (mut near, _) = start(metrics());
    near.watch(wanted("10.20.0.2", false));
    let news = until(&mut near, State::Down).await;
    let why = news.session.diagnostic.unwrap();
    assert!(!news.failed && why.contains("another program"), "{why}");
}

#[tokio::test]
async fn a_peer_that_is_further_than_is_taken_is_told_of_once() {
    if !inside("bgp::bfd::tests::a_peer_that_is_further_than_is_taken_is_told_of_once") {
        return;
    }
    must(LINK).await;
    let (mut near, _ended) = start(metrics());
    let mut way = way("10.20.0.2");
    way.minimum_ttl = Some(254);
    let watched = wanted("10.20.0.2", false).into_values().next().unwrap();
    near.watch([(way, watched)].into());
    let socket = in_far(|| {
        let socket = std::net::UdpSocket::bind("10.20.0.2:0").unwrap();
        socket.set_ttl(64).unwrap();
        socket
    });
    let packet = herald_bfd::ControlPacket {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: false,
        r#final: false,
        control_plane_independent: false,
        authenticated: false,
        demand: false,
        multipoint: false,
        detect_mult: 3,
        my_discriminator: 7,
        your_discriminator: 0,
        desired_min_tx: 1_000_000,
        required_min_rx: 1_000_000,
        required_min_echo_rx: 0,
    };
    let send = async || loop {
        // Nobody listens at first.
        let _ = socket.send_to(&packet.to_bytes(), "10.20.0.1:4784");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let news = tokio::select! {
        news = until(&mut near, State::Down) => news,
        () = send() => unreachable!(),
    };
    let why = news.session.diagnostic.unwrap();
    assert!(
        why.contains("TTL of 64") && why.contains("minimumTtl"),
        "{why}"
    );
    let again = tokio::select! {
        news = near.news() => news,
        () = send() => unreachable!(),
        () = tokio::time::sleep(Duration::from_millis(500)) => None,
    };
    assert!(again.is_none(), "{again:?}");
}
