//! The list of scenarios. It is the specification of what Herald does for a
//! client outside the cluster; `herald-lab list` prints it.

mod admission;
mod adopt;
mod allocation;
mod aws;
mod aws_moves;
mod bad_objects;
mod bench;
mod bfd;
mod bgp;
mod bgp_bench;
mod bgp_exabgp;
mod bgp_fabric;
mod bgp_hostile;
mod bgp_matrix;
mod bgp_refused;
mod bgp_send_hold;
mod bgp_traffic;
mod bgp_unnumbered;
mod bgp_weights;
mod churn;
mod cloud;
mod exposing;
mod external_source;
mod failover;
mod fencing;
mod frames;
mod migrate;
mod moving;
mod operator;
mod owners;
mod pools;
mod rbac;
mod route_monitor;
mod scale;
mod segment;
mod sharing;
mod side_by_side;
mod upgrade;

use crate::router::Software;
use crate::scenario::Isolation::Own;
use crate::scenario::Overlay::{Aws, FakeCloud};
use crate::scenario::ProxyMode::{Iptables, Ipvs, Nftables};
use crate::scenario::Scenario;

/// A scenario's function, as the list holds it.
macro_rules! run {
    ($theme:ident :: $function:ident) => {
        |context| Box::pin($theme::$function(context))
    };
}

/// Every scenario.
pub static ALL: &[Scenario] = &[
    Scenario {
        name: "expose",
        title: "kubectl create deployment, kubectl expose: an address of each family, announced \
                by the node that answers for it, and curl gets through",
        proxy_modes: &[Nftables, Iptables, Ipvs],
        measures: true,
        run: run!(exposing::expose),
        ..Scenario::BASE
    },
    Scenario {
        name: "strict-arp-off",
        title: "with kube-proxy's IPVS mode and strictARP off, where every node answers ARP for \
                every VIP, clients still get through, and the speaker says what is wrong",
        proxy_modes: &[Ipvs],
        run: run!(exposing::strict_arp_off),
        ..Scenario::BASE
    },
    Scenario {
        name: "ports",
        title: "a Service with several ports, and TCP and UDP on one port: all answer at one \
                address",
        run: run!(exposing::ports),
        ..Scenario::BASE
    },
    Scenario {
        name: "traffic-policy-local",
        title: "externalTrafficPolicy Local: the pod sees the client's address, and the VIP \
                follows the pod to another node",
        proxy_modes: &[Nftables, Iptables, Ipvs],
        measures: true,
        run: run!(exposing::traffic_policy_local),
        ..Scenario::BASE
    },
    Scenario {
        name: "selector-less",
        title: "a Service without a selector serves the endpoints of a hand-made EndpointSlice",
        run: run!(exposing::selector_less),
        ..Scenario::BASE
    },
    Scenario {
        name: "type-change",
        title: "a Service that becomes ClusterIP, NodePort or ExternalName gives its address to \
                one that waits; Services of those types are never touched",
        run: run!(allocation::type_change),
        ..Scenario::BASE
    },
    Scenario {
        name: "pool-exhausted",
        title: "without an address to give, a Service waits with a condition and an event that \
                say so, and is served when a pool is added",
        run: run!(allocation::pool_exhausted),
        ..Scenario::BASE
    },
    Scenario {
        name: "requested-address",
        title: "a requested address is given when it is free, and else the condition says that \
                it is taken or in no pool",
        run: run!(allocation::requested_address),
        ..Scenario::BASE
    },
    Scenario {
        name: "pool-choice",
        title: "which pool a Service gets its addresses from: by namespace, labels, priority and \
                name; one family or two, gained and lost, from one pool or from two",
        run: run!(pools::pool_choice),
        ..Scenario::BASE
    },
    Scenario {
        name: "pool-rules",
        title: "limits, reserved, excluded and freed addresses, and such as the cluster uses \
                itself: kept to, and told on the pool and on the Service",
        run: run!(pools::pool_rules),
        ..Scenario::BASE
    },
    Scenario {
        name: "pool-draining",
        title: "a pool drains: a Service has its old address beside the new one for a while, and no \
                probe is lost; without any pool it keeps what it has, and is told",
        run: run!(pools::pool_draining),
        ..Scenario::BASE
    },
    Scenario {
        name: "address-moves",
        title: "as docs/operations.md says: a pool that ran dry is widened, a Service goes to \
                another address by way of both, a part of a pool is drained away",
        run: run!(moving::by_the_book),
        ..Scenario::BASE
    },
    Scenario {
        name: "outside-pools",
        title: "five restarts of the operator with Services that wait change no address; Services \
                whose pool is deleted are moved, or lose their address, where the flag says so",
        isolation: Own,
        run: run!(pools::outside_pools),
        ..Scenario::BASE
    },
    Scenario {
        name: "shared-address",
        title: "Services with one sharing key have one address, announced by one node; one whose \
                port is taken is told by whom, and joins them when the port is free",
        run: run!(sharing::shared_address),
        ..Scenario::BASE
    },
    Scenario {
        name: "operator-failover",
        title: "the leading operator is killed while 50 Services are created: each has one \
                address, none is given twice, and a full restart changes nothing",
        isolation: Own,
        measures: true,
        run: run!(operator::failover),
        ..Scenario::BASE
    },
    Scenario {
        name: "operator-fence",
        title: "the leading operator is stopped, and another one cut off, while Services are \
                created: no address is given twice, and nothing of a former leader is written",
        isolation: Own,
        run: run!(fencing::stopped),
        ..Scenario::BASE
    },
    Scenario {
        name: "external-source",
        title: "a pool whose addresses a source outside gives: asked, killed in it, away, forgetful, \
                and given back to the last",
        isolation: Own,
        run: run!(external_source::external_source),
        ..Scenario::BASE
    },
    Scenario {
        name: "operator-killed",
        title: "the leading operator is killed ten times while Services come, change their type, ask \
                for pools and addresses, share, and go: each has exactly what it should",
        isolation: Own,
        run: run!(fencing::killed),
        ..Scenario::BASE
    },
    Scenario {
        name: "operator-killed-often",
        title: "as operator-killed, a hundred times",
        isolation: Own,
        only_bench: true,
        run: run!(fencing::killed_often),
        ..Scenario::BASE
    },
    Scenario {
        name: "upgrade",
        title: "today's manifests over objects as a former release wrote them, and three roll-outs of \
                the operator while Services come, change and go: nothing is written without need, \
                nothing lost or doubled",
        isolation: Own,
        run: run!(upgrade::upgrade),
        ..Scenario::BASE
    },
    Scenario {
        name: "api-faults",
        title: "30 % of the operator's requests fail and the API server is started anew while \
                1,000 Services are created: each has an address of its own",
        isolation: Own,
        run: run!(fencing::api_faults),
        ..Scenario::BASE
    },
    Scenario {
        name: "two-operators",
        title: "two operators of two classes side by side: neither touches the other's Services, \
                and one that moves from one to the other leaves nothing behind",
        overlay: FakeCloud,
        isolation: Own,
        run: run!(side_by_side::two_operators),
        ..Scenario::BASE
    },
    Scenario {
        name: "admission",
        title: "with the admission policies the API server refuses what contradicts itself and, \
                in strict mode, annotations that nobody knows; nothing else",
        isolation: Own,
        run: run!(admission::policies),
        ..Scenario::BASE
    },
    Scenario {
        name: "adopt-metallb",
        title: "MetalLB's pools, advertisements and peers are taken over, and its Services with \
                every address; migrated, they stay when MetalLB goes",
        isolation: Own,
        run: run!(adopt::metallb),
        ..Scenario::BASE
    },
    Scenario {
        name: "migrate-from-metallb",
        title: "docs/migrate-from-metallb.md word for word, from a cluster without Herald to one \
                without MetalLB: every command succeeds, and every address stays",
        isolation: Own,
        run: run!(migrate::word_for_word),
        ..Scenario::BASE
    },
    Scenario {
        name: "cold-start",
        title: "2,000 Services wait when the operator starts: how fast they have their addresses, \
                beside what the same API server takes from a bare client",
        isolation: Own,
        only_bench: true,
        run: run!(scale::cold_start),
        ..Scenario::BASE
    },
    Scenario {
        name: "ten-thousand",
        title: "10,000 Services: pace and memory, a restart, one more Service, the leader's death, \
                and no write where nothing changes",
        isolation: Own,
        only_bench: true,
        run: run!(scale::ten_thousand),
        ..Scenario::BASE
    },
    Scenario {
        name: "node-crash",
        title: "the announcing node crashes: another one takes over and traffic is back",
        proxy_modes: &[Nftables, Iptables, Ipvs],
        isolation: Own,
        measures: true,
        run: run!(failover::node_crash),
        ..Scenario::BASE
    },
    Scenario {
        name: "node-crash-fast",
        title: "with the fast profile the announcing node crashes, and another one takes over sooner, \
                both Services at its addresses together",
        isolation: Own,
        measures: true,
        run: run!(segment::fast_crash),
        ..Scenario::BASE
    },
    Scenario {
        name: "crash-told",
        title: "what is written when one of six nodes dies: one event on the Service, and the \
                status objects of who takes over and of who tells of the others",
        nodes: 6,
        isolation: Own,
        measures: true,
        run: run!(owners::crash_told),
        ..Scenario::BASE
    },
    Scenario {
        name: "mute-owner",
        title: "a switch drops what the announcing node says about its VIPs: others notice, one takes \
                them over, and nothing moves again, not when it may speak again either",
        isolation: Own,
        measures: true,
        run: run!(owners::mute_owner),
        ..Scenario::BASE
    },
    Scenario {
        name: "link-cut",
        title: "the announcing node is cut off the LAN, or its cable is pulled: another one takes \
                over, and nothing moves back by itself",
        isolation: Own,
        measures: true,
        run: run!(segment::link_cut),
        ..Scenario::BASE
    },
    Scenario {
        name: "one-way",
        title: "the announcing node is not heard any more, or hears nobody: another one takes over",
        isolation: Own,
        measures: true,
        run: run!(segment::one_way),
        ..Scenario::BASE
    },
    Scenario {
        name: "flap-then-crash",
        title: "a link flaps, and then the announcing node crashes: another one takes over at once",
        isolation: Own,
        measures: true,
        run: run!(segment::flap_then_crash),
        ..Scenario::BASE
    },
    Scenario {
        name: "speaker-killed",
        title: "SIGKILL of the announcing speaker: one owner, soon; SIGSTOP: others take over, and when \
                it runs again it sees that it is not the owner any more; a short stall moves \
                nothing",
        isolation: Own,
        measures: true,
        run: run!(segment::speaker_killed),
        ..Scenario::BASE
    },
    Scenario {
        name: "speaker-throttled",
        title: "a CPU limit keeps the announcing speaker from running: an event on its node says so, \
                and when the limit is off each VIP has one owner",
        isolation: Own,
        limits_cpu: true,
        run: run!(segment::throttled),
        ..Scenario::BASE
    },
    Scenario {
        name: "management-cut",
        title: "the announcing node is cut off the cluster and well on the LAN: when it is NotReady, \
                others have its VIPs",
        isolation: Own,
        run: run!(segment::management_cut),
        ..Scenario::BASE
    },
    Scenario {
        name: "lan-split",
        title: "the LAN in two parts: each has an owner, and one stays when it is whole again",
        isolation: Own,
        clients: 2,
        run: run!(segment::split_available),
        ..Scenario::BASE
    },
    Scenario {
        name: "lan-split-strict",
        title: "the LAN in two parts, with policy strict: only the part with most nodes has an owner",
        isolation: Own,
        clients: 2,
        run: run!(segment::split_strict),
        ..Scenario::BASE
    },
    Scenario {
        name: "api-away-crash",
        title: "the announcing node crashes while the API server is away: another one takes over, and \
                nothing moves when it is back",
        isolation: Own,
        measures: true,
        run: run!(segment::api_away_crash),
        ..Scenario::BASE
    },
    Scenario {
        name: "unicast-heartbeats",
        title: "with heartbeats to each peer and none to a group the announcing node crashes: \
                another one takes over",
        isolation: Own,
        measures: true,
        run: run!(segment::unicast),
        ..Scenario::BASE
    },
    Scenario {
        name: "rebalance",
        title: "a node that is back gets its VIPs back when somebody asks for it, and not before",
        isolation: Own,
        measures: true,
        run: run!(segment::rebalance),
        ..Scenario::BASE
    },
    Scenario {
        name: "rotate-keys",
        title: "the key of the heartbeats is changed step by step: nothing moves, nothing is lost",
        isolation: Own,
        measures: true,
        run: run!(segment::rotate_keys),
        ..Scenario::BASE
    },
    Scenario {
        name: "speaker-restart",
        title: "SIGTERM of the announcing speaker, a rolling restart of the DaemonSet, and a drain \
                of the announcing node: traffic goes on, and nothing moves back",
        isolation: Own,
        measures: true,
        run: run!(failover::speaker_restart),
        ..Scenario::BASE
    },
    Scenario {
        name: "exclude-node",
        title: "a node labelled node.kubernetes.io/exclude-from-external-load-balancers loses \
                its VIPs",
        measures: true,
        run: run!(failover::exclude_node),
        ..Scenario::BASE
    },
    Scenario {
        name: "api-outage",
        title: "the API server is stopped for 60 s: no probe is lost, and changes made after it \
                is back are served",
        isolation: Own,
        measures: true,
        run: run!(failover::api_outage),
        ..Scenario::BASE
    },
    Scenario {
        name: "hostile-frames",
        title: "thousands of malformed ARP and NDP frames: no probe is lost, nothing moves, no \
                speaker ends, and no conflict is told that there is not",
        run: run!(frames::hostile_frames),
        ..Scenario::BASE
    },
    Scenario {
        name: "hostile-heartbeats",
        title: "heartbeats sent again later, from their senders' addresses and another, and forged \
                ones: counted, no probe is lost, nothing moves, and no speaker is taken for gone",
        run: run!(frames::hostile_heartbeats),
        ..Scenario::BASE
    },
    Scenario {
        name: "address-conflict",
        title: "a host that has an address before us keeps it, is told of, and we take it when it \
                goes; one that takes an address of ours is told of, and we hold on",
        run: run!(frames::address_conflict),
        ..Scenario::BASE
    },
    Scenario {
        name: "node-traps",
        title: "a VIP on another node's interface and a strict reverse path filter are told in \
                events that name the node and say what to do",
        run: run!(frames::node_traps),
        ..Scenario::BASE
    },
    Scenario {
        name: "address-test",
        title: "a host that tests whether a VIP is free, by IPv6's duplicate address detection or \
                an ARP probe, finds it taken, and no probe is lost",
        run: run!(frames::address_test),
        ..Scenario::BASE
    },
    Scenario {
        name: "arp-rate",
        title: "ARP answers a second for 1, 1,000 and 10,000 VIPs, beside the kernel's for the \
                node's own address",
        nodes: 1,
        isolation: Own,
        only_bench: true,
        run: run!(frames::arp_rate),
        ..Scenario::BASE
    },
    Scenario {
        name: "l2-failover",
        title: "for how long a client sees nothing when the owner crashes, is cut off, or its \
                speaker is killed or stopped, by profile, and without the API server",
        isolation: Own,
        only_bench: true,
        run: run!(bench::l2_failover),
        ..Scenario::BASE
    },
    Scenario {
        name: "l2-failover-10",
        title: "the same with ten nodes",
        nodes: 10,
        isolation: Own,
        only_bench: true,
        run: run!(bench::l2_failover),
        ..Scenario::BASE
    },
    Scenario {
        name: "l2-move",
        title: "probes lost in planned moves: SIGTERM, roll-out, drain, exclude label, rebalance",
        isolation: Own,
        only_bench: true,
        run: run!(bench::l2_move),
        ..Scenario::BASE
    },
    Scenario {
        name: "l2-scale",
        title: "a node with a third of 10,000 addresses dies: when the first and the last of \
                them are answered for and announced by others",
        isolation: Own,
        only_bench: true,
        run: run!(bench::l2_scale),
        ..Scenario::BASE
    },
    Scenario {
        name: "idle",
        title: "CPU and memory of a speaker that has nothing to do, with up to 10,000 addresses, \
                among 3 nodes and among 50 peers",
        isolation: Own,
        only_bench: true,
        run: run!(bench::idle),
        ..Scenario::BASE
    },
    Scenario {
        name: "soak",
        title: "moves and lost probes in minutes with both cores busy and 1 % of frames lost",
        isolation: Own,
        only_bench: true,
        run: run!(bench::soak),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-routes",
        title: "a Service's routes reach FRR and BIRD from every node, go with an excluded node, \
                and stay while all speakers are restarted",
        nodes: 3,
        routers: &[Software::Frr, Software::Bird],
        isolation: Own,
        run: run!(bgp::routes_of_a_service),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-bfd",
        title: "routers know by BFD that a node is dead, and others by the hold time; peers \
                without BFD are spoken with all the same",
        nodes: 3,
        routers: &[Software::Frr, Software::Bird],
        isolation: Own,
        run: run!(bfd::a_dead_node),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-bfd-multihop",
        title: "routers two hops away know by BFD that a node is dead",
        nodes: 3,
        routers: &[Software::Frr, Software::Bird],
        isolation: Own,
        measures: true,
        run: run!(bfd::far_away),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-send-hold",
        title: "a peer that sends KEEPALIVEs and reads nothing: its session ends when the send \
                hold time is over, and another peer has all routes meanwhile",
        nodes: 0,
        clients: 3,
        isolation: Own,
        measures: true,
        run: run!(bgp_send_hold::a_peer_that_does_not_read),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-unnumbered",
        title: "FRR at the other end of a cable without addresses: found by its router \
                advertisements, both families over one session, BFD, and told in words when there \
                is no such router",
        nodes: 2,
        routers: &[Software::Frr],
        isolation: Own,
        measures: true,
        run: run!(bgp_unnumbered::without_addresses),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-weights",
        title: "FRR sends a node with three endpoints of a Service three times as much as a node \
                with one, by the link bandwidth that each tells",
        nodes: 2,
        routers: &[Software::Frr],
        isolation: Own,
        measures: true,
        run: run!(bgp_weights::by_endpoints),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-bfd-fast",
        title: "how soon FRR and BIRD take a node's paths away when its link is cut, with BFD of \
                50 ms and of 10 ms, three times",
        nodes: 3,
        routers: &[Software::Frr, Software::Bird],
        isolation: Own,
        only_bench: true,
        run: run!(bfd::fast),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-planned",
        title: "clients behind FRR and BIRD, three nodes as equal paths: a roll-out of the speakers, \
                an excluded and a cordoned node, and a speaker restarted without the API server lose \
                no probe",
        routers: &[Software::Frr, Software::Bird],
        isolation: Own,
        measures: true,
        run: run!(bgp_traffic::nothing_lost),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-silent",
        title: "the same clients: a node's link is cut, and one crashes; BIRD takes their paths out \
                after the hold time, and all is back with the nodes",
        routers: &[Software::Frr, Software::Bird],
        isolation: Own,
        measures: true,
        run: run!(bgp_traffic::silent_nodes),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-refused",
        title: "a wrong AS, a wrong password, a missing Secret, nobody there: told in words, and the \
                good peer goes on; a router that goes and comes ten times ends well",
        routers: &[Software::Frr, Software::Bird, Software::Gobgp],
        isolation: Own,
        run: run!(bgp_refused::told_in_words),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-hostile",
        title: "peers that send broken and odd messages, floods and storms of connections: each is \
                answered as the RFCs say, and the good peer's session and routes stay",
        nodes: 1,
        routers: &[Software::Frr],
        isolation: Own,
        measures: true,
        run: run!(bgp_hostile::hostile_peers),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-matrix",
        title: "Herald's BGP engine with FRR, BIRD, GoBGP and OpenBGPD: each feature with each of \
                them, as their own tables tell",
        nodes: 0,
        clients: 4,
        routers: &Software::ROUTERS,
        isolation: Own,
        run: run!(bgp_matrix::matrix),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-exabgp",
        title: "ExaBGP is told Herald's routes, and sends attributes that nobody knows or whose \
                flags are wrong: the session stays",
        nodes: 0,
        routers: &[Software::Exabgp],
        isolation: Own,
        run: run!(bgp_exabgp::odd_attributes),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-100k",
        title: "100,000 routes to a newly established peer, and all withdrawn, by Herald's BGP \
                engine and by BIRD, OpenBGPD, FRR and GoBGP",
        nodes: 0,
        clients: 2,
        routers: &Software::ROUTERS,
        isolation: Own,
        only_bench: true,
        run: run!(bgp_bench::hundred_thousand),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-created",
        title: "from the request that makes a Service to its route in FRR's and BIRD's kernel",
        routers: &[Software::Frr, Software::Bird],
        isolation: Own,
        only_bench: true,
        run: run!(bench::bgp_created),
        ..Scenario::BASE
    },
    Scenario {
        name: "bgp-5000",
        title: "5,000 Services in the tables of FRR, BIRD and GoBGP: the speaker's memory, and one \
                more and one less while GoBGP goes and comes, which no other notices",
        nodes: 2,
        routers: &[Software::Frr, Software::Bird, Software::Gobgp],
        isolation: Own,
        only_bench: true,
        run: run!(bench::bgp_5000),
        ..Scenario::BASE
    },
    Scenario {
        name: "bfd-500",
        title: "500 BFD sessions of 50 ms, three times, in one speaker with a busy loop on every \
                core: flaps, and the CPU time they take",
        nodes: 1,
        isolation: Own,
        only_bench: true,
        run: run!(bench::bfd_500),
        ..Scenario::BASE
    },
    Scenario {
        name: "bad-objects",
        title: "overlapping pools, a range upside down, a CIDR with host bits, an unknown class, \
                an address requested twice: each is told, and nothing else is \
                disturbed",
        run: run!(bad_objects::bad_objects),
        ..Scenario::BASE
    },
    Scenario {
        name: "cloud-path",
        title: "fake cloud: a Service gets a load balancer in front of all nodes, then of \
                labelled nodes only, and clients get through to the pods",
        overlay: FakeCloud,
        isolation: Own,
        measures: true,
        run: run!(cloud::path),
        ..Scenario::BASE
    },
    Scenario {
        name: "cloud-health",
        title: "fake cloud: health checks take nodes out that have no pod of a Local Service, \
                and one that dies; probes go on",
        overlay: FakeCloud,
        isolation: Own,
        measures: true,
        run: run!(cloud::health),
        ..Scenario::BASE
    },
    Scenario {
        name: "cloud-faults",
        title: "fake cloud: provisioning fails, calls fail, are throttled and time out after \
                doing the work: told in the condition, and one load balancer in the end",
        overlay: FakeCloud,
        run: run!(cloud::faults),
        ..Scenario::BASE
    },
    Scenario {
        name: "cloud-operator-killed",
        title: "fake cloud: the operator is killed before and after the work of each changing \
                call: exactly the right load balancers exist in the end",
        overlay: FakeCloud,
        isolation: Own,
        run: run!(cloud::operator_killed),
        ..Scenario::BASE
    },
    Scenario {
        name: "class-change",
        title: "a Service moves from the fake cloud to bare metal and back by delete and create, \
                and leaves nothing behind",
        overlay: FakeCloud,
        run: run!(cloud::class_change),
        ..Scenario::BASE
    },
    Scenario {
        name: "aws-path",
        title: "AWS's stand-in: from a dry run to a hostname that clients resolve; pods scaled, a node excluded and one drained without a lost probe; deleted under traffic, and nothing is left",
        overlay: Aws,
        isolation: Own,
        measures: true,
        run: run!(aws::path),
        ..Scenario::BASE
    },
    Scenario {
        name: "aws-targets",
        title: "AWS's stand-in: a Local Service has the nodes with endpoints as targets, target type ip the pods, whose readiness gates open; health checks notice an instance that crashed",
        overlay: Aws,
        isolation: Own,
        measures: true,
        run: run!(aws::kinds_of_targets),
        ..Scenario::BASE
    },
    Scenario {
        name: "aws-replace",
        title: "AWS's stand-in: scheme and name change by a load balancer beside the old one without a lost probe, also when the operator is killed meanwhile",
        overlay: Aws,
        isolation: Own,
        run: run!(aws::replaced),
        ..Scenario::BASE
    },
    Scenario {
        name: "aws-adopt",
        title: "AWS's stand-in: what the AWS Load Balancer Controller made is taken over with its hostname and no lost probe, and deleted whole",
        overlay: Aws,
        isolation: Own,
        run: run!(aws_moves::adopted),
        ..Scenario::BASE
    },
    Scenario {
        name: "aws-lent",
        title: "AWS's stand-in: a load balancer as the in-tree cloud provider made it is taken over by ARN with its hostname and no lost probe, and given back when the Service goes",
        overlay: Aws,
        isolation: Own,
        run: run!(aws_moves::lent),
        ..Scenario::BASE
    },
    Scenario {
        name: "aws-many",
        title: "AWS's stand-in: the operator's memory with 100 and 500 Services, and after a start with them",
        overlay: Aws,
        isolation: Own,
        only_bench: true,
        run: run!(aws::many),
        ..Scenario::BASE
    },
    Scenario {
        name: "aws-account",
        title: "AWS's stand-in: a Service deleted while the operator is down, a quota reached and lifted, twelve Services at once in a throttled account whose describes lag",
        overlay: Aws,
        isolation: Own,
        measures: true,
        run: run!(aws::account),
        ..Scenario::BASE
    },
    Scenario {
        name: "rbac",
        title: "the shipped roles suffice (the API server denies Herald nothing) and each of \
                their rules is needed",
        overlay: FakeCloud,
        isolation: Own,
        run: run!(rbac::least_privilege),
        ..Scenario::BASE
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_fit_namespaces_and_folders() {
        let names: BTreeSet<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        for name in names {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(!name.is_empty() && name.chars().all(fits), "{name:?}");
        }
    }

    #[test]
    fn every_scenario_says_what_holds() {
        for scenario in ALL {
            assert!(!scenario.title.is_empty(), "{}", scenario.name);
            assert!(!scenario.proxy_modes.is_empty(), "{}", scenario.name);
        }
    }
}
