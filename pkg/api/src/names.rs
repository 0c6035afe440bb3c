//! Names that appear in users' manifests: classes, annotations, labels,
//! finalizers, condition types.

/// loadBalancerClass of addresses from pools, announced by the speakers.
pub const CLASS_BARE_METAL: &str = "herald.dev/bare-metal";
/// loadBalancerClass of AWS's Network Load Balancers.
pub const CLASS_AWS_NLB: &str = "herald.dev/aws-nlb";
/// loadBalancerClass of the pretend cloud.
pub const CLASS_FAKE: &str = "herald.dev/fake";

/// Field manager of everything the operator writes.
pub const FIELD_MANAGER: &str = "herald-operator";
/// Finalizer of Services and pools that have something outside the cluster.
pub const FINALIZER: &str = "herald.dev/cleanup";

/// Annotation: requested addresses, comma separated, of any family of the Service.
pub const ANNOTATION_LOAD_BALANCER_IPS: &str = "herald.dev/loadBalancerIPs";
/// `MetalLB`'s form of [`ANNOTATION_LOAD_BALANCER_IPS`].
pub const ANNOTATION_METALLB_LOAD_BALANCER_IPS: &str = "metallb.io/loadBalancerIPs";
/// [`ANNOTATION_LOAD_BALANCER_IPS`] in all its spellings, `MetalLB`'s older one last.
pub const SPELLINGS_LOAD_BALANCER_IPS: [&str; 3] = [
    ANNOTATION_LOAD_BALANCER_IPS,
    ANNOTATION_METALLB_LOAD_BALANCER_IPS,
    "metallb.universe.tf/loadBalancerIPs",
];
/// Annotation: the pool to take addresses from, or several, comma separated: each
/// family is then taken from the first that has it.
pub const ANNOTATION_ADDRESS_POOL: &str = "herald.dev/address-pool";
/// `MetalLB`'s form of [`ANNOTATION_ADDRESS_POOL`].
pub const ANNOTATION_METALLB_ADDRESS_POOL: &str = "metallb.io/address-pool";
/// [`ANNOTATION_ADDRESS_POOL`] in all its spellings.
pub const SPELLINGS_ADDRESS_POOL: [&str; 3] = [
    ANNOTATION_ADDRESS_POOL,
    ANNOTATION_METALLB_ADDRESS_POOL,
    "metallb.universe.tf/address-pool",
];
/// Annotation: a key; Services with the same one may have one address.
pub const ANNOTATION_ALLOW_SHARED_IP: &str = "herald.dev/allow-shared-ip";
/// `MetalLB`'s form of [`ANNOTATION_ALLOW_SHARED_IP`].
pub const ANNOTATION_METALLB_ALLOW_SHARED_IP: &str = "metallb.io/allow-shared-ip";
/// [`ANNOTATION_ALLOW_SHARED_IP`] in all its spellings.
pub const SPELLINGS_ALLOW_SHARED_IP: [&str; 3] = [
    ANNOTATION_ALLOW_SHARED_IP,
    ANNOTATION_METALLB_ALLOW_SHARED_IP,
    "metallb.universe.tf/allow-shared-ip",
];
/// Annotation of a Service with `externalTrafficPolicy: Local`: what each of its ready
/// endpoints counts for in Mbit/s, 1 to 4294967295. BGP peers are told the sum of a node's
/// (the extended community of draft-ietf-idr-link-bandwidth), and weigh the nodes by it.
pub const ANNOTATION_LINK_BANDWIDTH: &str = "herald.dev/link-bandwidth";
/// Annotation: `"true"` writes the plan to the condition and changes nothing.
pub const ANNOTATION_DRY_RUN: &str = "herald.dev/dry-run";

/// Label of nodes that must not carry traffic from outside (the Kubernetes
/// well-known label; its presence counts, whatever its value).
pub const LABEL_EXCLUDE_NODE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Taint of nodes that are cordoned.
pub const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Label of nodes with their zone.
pub const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// Label of an `EndpointSlice` that names its Service.
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of nodes: how many addresses a node is to have beside the others, 1 (the
/// default) to 255.
pub const LABEL_WEIGHT: &str = "herald.dev/weight";
/// Annotation of an `L2Advertisement`: whenever its value changes, addresses go
/// back to the nodes that should have them.
pub const ANNOTATION_REBALANCE: &str = "herald.dev/rebalance";

/// Secret with the keys of the speakers' heartbeats.
pub const SECRET_HEARTBEAT_KEYS: &str = "herald-heartbeat-keys";
/// Entry of [`SECRET_HEARTBEAT_KEYS`] that heartbeats are sealed with; those with
/// other names are accepted beside it.
pub const HEARTBEAT_KEY_PRIMARY: &str = "primary";
/// Label by which a speaker finds the pods of its peers.
pub const LABEL_APP_NAME: &str = "app.kubernetes.io/name";
/// Value of [`LABEL_APP_NAME`] on speaker pods.
pub const APP_SPEAKER: &str = "herald-speaker";

/// Condition of a Service: whether its load balancer is ready for clients.
pub const CONDITION_LOAD_BALANCER_READY: &str = "herald.dev/LoadBalancerReady";
/// Condition of a Service: what is odd about its annotations, although it is served;
/// not there where nothing is.
pub const CONDITION_WARNINGS: &str = "herald.dev/Warnings";
/// Condition of our own objects: whether they are in force as written.
pub const CONDITION_VALID: &str = "Valid";
/// Condition of a pool: something of the cluster has addresses of it; not there
/// where nothing has.
pub const CONDITION_CONFLICTS: &str = "Conflicts";
/// Condition of a pool: Services wait for an address of it; not there where none
/// does.
pub const CONDITION_SERVICES_WAITING: &str = "ServicesWaiting";
/// Condition of a pool: namespaces have as much of it as they may; not there where
/// none has.
pub const CONDITION_LIMIT_REACHED: &str = "LimitReached";
/// Condition of a pool that is draining: whether it is empty.
pub const CONDITION_DRAINED: &str = "Drained";
