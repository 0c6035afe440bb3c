//! Every annotation that the provider reads, as data: parsing, validation, hints for
//! mistyped names and docs/aws-annotations.md all come from here.

/// Prefix of the AWS Load Balancer Controller's annotations.
pub const LBC_PREFIX: &str = "service.beta.kubernetes.io/";
/// Prefix of Herald's. Every annotation of the other prefix may be written with this
/// one, with the same rest.
pub const HERALD_PREFIX: &str = "herald.dev/";

/// An annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// What follows the prefix.
    pub suffix: &'static str,
    /// What follows the suffix and a dot.
    pub parameter: Parameter,
    /// Under which prefixes it is read.
    pub prefixes: Prefixes,
    /// What its value is.
    pub kind: Kind,
    /// What holds without it.
    pub default: &'static str,
    /// A value.
    pub example: &'static str,
    /// What it does and when it applies.
    pub meaning: &'static str,
}

/// What follows an annotation's suffix and a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// Nothing, not even the dot.
    None,
    /// A port of the Service, `80`.
    Port,
    /// Protocol and port of a listener, `TCP-80`.
    ProtocolPort,
}

impl Parameter {
    /// How the documentation writes it.
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Port => ".PORT",
            Self::ProtocolPort => ".PROTOCOL-PORT",
        }
    }
}

/// Under which prefixes an annotation is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefixes {
    /// Both.
    Both,
    /// [`HERALD_PREFIX`] alone.
    Herald,
    /// [`LBC_PREFIX`] alone; it has no effect, and a warning says why.
    Ignored,
}

/// What the value of an annotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`.
    Bool,
    /// `on` or `off`.
    OnOff,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// One of these words in any case.
    OneOfAnyCase(&'static [&'static str]),
    /// A whole number in this range, both ends included.
    Integer(u32, u32),
    /// Items with commas between them.
    List,
    /// `key=value` pairs with commas between them.
    Map,
    /// A JSON object.
    Json,
}

impl Kind {
    /// How the documentation writes it.
    pub fn describe(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Bool => "`true` or `false`".to_owned(),
            Self::OnOff => "`on` or `off`".to_owned(),
            Self::OneOf(words) | Self::OneOfAnyCase(words) => words
                .iter()
                .map(|word| format!("`{word}`"))
                .collect::<Vec<_>>()
                .join(", "),
            Self::Integer(least, most) => format!("{least} to {most}"),
            Self::List => "list".to_owned(),
            Self::Map => "map".to_owned(),
            Self::Json => "JSON".to_owned(),
        }
    }
}

/// Annotations that belong together, under a heading.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// What is in it.
    pub annotations: &'static [Annotation],
}

macro_rules! sections {
    ($($title:literal {
        $($name:ident $suffix:literal $(. $parameter:ident)? $([$prefixes:ident])? : $kind:expr,
            default $default:literal, example $example:literal, $meaning:literal;)+
    })+) => {
        $($(
            #[doc = concat!("`", $suffix, "`")]
            pub const $name: Annotation = Annotation {
                suffix: $suffix,
                parameter: sections!(@parameter $($parameter)?),
                prefixes: sections!(@prefixes $($prefixes)?),
                kind: $kind,
                default: $default,
                example: $example,
                meaning: $meaning,
            };
        )+)+

        /// All annotations, in the order of the documentation.
        pub const SECTIONS: &[Section] = &[
            $(Section { title: $title, annotations: &[$($name,)+] },)+
        ];
    };
    (@parameter) => { Parameter::None };
    (@parameter $parameter:ident) => { Parameter::$parameter };
    (@prefixes) => { Prefixes::Both };
    (@prefixes $prefixes:ident) => { Prefixes::$prefixes };
}

sections! {
    "Load balancer" {
        TYPE "aws-load-balancer-type": Kind::OneOf(&["external", "nlb", "nlb-ip"]),
            default "none", example "external",
            "Read for the sake of manifests written for other controllers. Whether Herald serves a Service follows from its `loadBalancerClass` or the operator's `--default-provider`, not from this. `nlb-ip` means target type `ip` where none is given.";
        NAME "aws-load-balancer-name": Kind::Text,
            default "`herald-`, the Service's name, a digest", example "shop-public",
            "Name of the load balancer: at most 32 letters, digits and hyphens, no hyphen at either end, not beginning with `internal-`. A change makes a new load balancer beside the old one. A name that something else in the region has is refused.";
        SCHEME "aws-load-balancer-scheme": Kind::OneOf(&["internal", "internet-facing"]),
            default "that of the existing load balancer, else `--aws-default-scheme`", example "internet-facing",
            "Whether it faces the internet. A change makes a new load balancer beside the old one, which is removed after clients had time to move.";
        INTERNAL "aws-load-balancer-internal": Kind::Bool,
            default "none", example "true",
            "Old form of the scheme; `aws-load-balancer-scheme` wins.";
        ATTRIBUTES "aws-load-balancer-attributes": Kind::Map,
            default "AWS's defaults", example "deletion_protection.enabled=true,load_balancing.cross_zone.enabled=true",
            "Attributes of the load balancer: access logs, cross-zone, deletion protection, client routing. A key that is taken out goes back to AWS's default. With deletion protection, deleting the Service waits until it is switched off.";
        ACCESS_LOG_ENABLED "aws-load-balancer-access-log-enabled": Kind::Bool,
            default "`false`", example "true",
            "Old form of attribute `access_logs.s3.enabled`; `aws-load-balancer-attributes` wins.";
        ACCESS_LOG_BUCKET "aws-load-balancer-access-log-s3-bucket-name": Kind::Text,
            default "none", example "my-logs",
            "Old form of attribute `access_logs.s3.bucket`; `aws-load-balancer-attributes` wins.";
        ACCESS_LOG_PREFIX "aws-load-balancer-access-log-s3-bucket-prefix": Kind::Text,
            default "none", example "shop",
            "Old form of attribute `access_logs.s3.prefix`; `aws-load-balancer-attributes` wins.";
        CROSS_ZONE "aws-load-balancer-cross-zone-load-balancing-enabled": Kind::Bool,
            default "`false`", example "true",
            "Old form of attribute `load_balancing.cross_zone.enabled`; `aws-load-balancer-attributes` wins.";
        CAPACITY "aws-load-balancer-minimum-load-balancer-capacity": Kind::Map,
            default "no reservation", example "CapacityUnits=3000",
            "Reserved capacity in load balancer capacity units; `CapacityUnits` is the only key. Asked for once the load balancer is active.";
        TAGS "aws-load-balancer-additional-resource-tags": Kind::Map,
            default "none", example "team=shop,stage=prod",
            "Tags of everything made for the Service, beside Herald's own and `--aws-default-tags`, which win. Keys beginning with `herald.dev/` or `aws:` are refused.";
    }
    "Network" {
        IP_ADDRESS_TYPE "aws-load-balancer-ip-address-type": Kind::OneOf(&["ipv4", "dualstack"]),
            default "`ipv4`", example "dualstack",
            "Families that it has addresses of. Changed in place.";
        SUBNETS "aws-load-balancer-subnets": Kind::List,
            default "those it has, else found by tags, else by reachability", example "subnet-0a1b2c3d,public-b",
            "Subnets by id or by tag `Name`, one a zone.";
        EIP_ALLOCATIONS "aws-load-balancer-eip-allocations": Kind::List,
            default "AWS chooses", example "eipalloc-0a1b,eipalloc-2c3d",
            "Elastic IP addresses, one for each subnet in the order of the subnets. Only internet-facing.";
        PRIVATE_IPV4 "aws-load-balancer-private-ipv4-addresses": Kind::List,
            default "AWS chooses", example "10.0.1.10,10.0.2.10",
            "Private IPv4 addresses, one of each subnet's network. Only internal.";
        IPV6 "aws-load-balancer-ipv6-addresses": Kind::List,
            default "AWS chooses", example "2001:db8:1::10,2001:db8:2::10",
            "IPv6 addresses, one of each subnet's network. Only dual stack.";
        IPV6_SOURCE_NAT "aws-load-balancer-enable-prefix-for-ipv6-source-nat": Kind::OnOff,
            default "`off`; `on` where a dual-stack load balancer carries UDP", example "on",
            "Whether IPv6 packets to targets come from a prefix of the subnet, which UDP over IPv6 needs. Only dual stack, and every subnet must have an IPv6 network.";
        IPV6_SOURCE_NAT_PREFIXES "aws-load-balancer-source-nat-ipv6-prefixes": Kind::List,
            default "`auto_assigned`", example "auto_assigned,2001:db8:2:0:1::/80",
            "Prefixes for that, one for each subnet: `auto_assigned` or a /80.";
    }
    "Security groups" {
        SECURITY_GROUPS "aws-load-balancer-security-groups": Kind::List,
            default "one that Herald makes and keeps", example "sg-0a1b2c3d,edge",
            "Your own security groups by id or by tag `Name`, instead of one that Herald keeps.";
        MANAGE_BACKEND_RULES "aws-load-balancer-manage-backend-security-group-rules": Kind::Bool,
            default "`true` with a group that Herald keeps, else `false`", example "true",
            "Whether Herald lets the load balancer in by rules in the security groups of nodes (target type `instance`) or pods (`ip`).";
        DISABLE_SECURITY_GROUP "aws-load-balancer-disable-nlb-sg": Kind::Bool,
            default "`false`", example "true",
            "Make the load balancer without any security group. AWS can never give it one later, so a change makes a new load balancer beside the old one.";
        PRIVATE_LINK_RULES "aws-load-balancer-inbound-sg-rules-on-private-link-traffic": Kind::OnOff,
            default "as AWS has it", example "off",
            "Whether the security groups' rules hold for clients that come over AWS PrivateLink.";
        PREFIX_LISTS "aws-load-balancer-security-group-prefix-lists": Kind::List,
            default "none", example "pl-0a1b2c3d",
            "Managed prefix lists of clients that may connect. Without source ranges nobody else may. Only with a group that Herald keeps.";
        SOURCE_RANGES "load-balancer-source-ranges": Kind::List,
            default "everywhere; nowhere with prefix lists", example "10.0.0.0/8,2001:db8::/32",
            "Networks of clients that may connect; `spec.loadBalancerSourceRanges` wins. IPv6 only with dual stack. Only with a group that Herald keeps.";
        PATH_MTU "aws-load-balancer-enable-icmp-for-path-mtu-discovery": Kind::OnOff,
            default "`off`", example "on",
            "Let in the ICMP messages of path MTU discovery from the same sources. Only with a group that Herald keeps.";
    }
    "Listeners" {
        SSL_CERT "aws-load-balancer-ssl-cert": Kind::List,
            default "none: no TLS", example "arn:aws:acm:eu-central-1:123456789012:certificate/1a2b",
            "ARNs of certificates, the default one first. With them listeners of TCP ports become TLS.";
        SSL_PORTS "aws-load-balancer-ssl-ports": Kind::List,
            default "all TCP ports", example "443,https",
            "Ports, by number or name, whose listeners are TLS. Only with certificates.";
        SSL_POLICY "aws-load-balancer-ssl-negotiation-policy": Kind::Text,
            default "`--aws-default-ssl-policy`", example "ELBSecurityPolicy-TLS13-1-2-2021-06",
            "Security policy of TLS listeners.";
        ALPN_POLICY "aws-load-balancer-alpn-policy": Kind::OneOf(&["None", "HTTP1Only", "HTTP2Only", "HTTP2Optional", "HTTP2Preferred"]),
            default "`None`", example "HTTP2Preferred",
            "ALPN policy of TLS listeners.";
        BACKEND_PROTOCOL "aws-load-balancer-backend-protocol": Kind::OneOf(&["ssl", "tcp"]),
            default "`tcp`", example "ssl",
            "`ssl`: TLS listeners speak TLS to their targets too. A change makes new target groups, which take over when their targets are healthy.";
        TCP_UDP "aws-load-balancer-enable-tcp-udp-listener": Kind::Bool,
            default "`true`", example "false",
            "TCP and UDP on one port are one listener of TCP_UDP, as AWS has one listener a port. Both must then have one node port (target type `instance`) or one target port (`ip`). `false` refuses such ports instead.";
        QUIC_PORTS "aws-load-balancer-quic-enabled-ports": Kind::List,
            default "none", example "443",
            "UDP ports, by number or name, that carry QUIC: UDP becomes QUIC, and TCP_UDP becomes TCP_QUIC. Only target type `ip`. AWS finds a server by its id in the connection id; a pod's is `0x` and 16 hexadecimal digits: its IPv4 address as a number (10.0.1.5 is `0x000000000a000105`), or the lower half of its IPv6 address, so that it can tell its own from `status.podIP`. Not tried on AWS itself.";
        LISTENER_ATTRIBUTES "aws-load-balancer-listener-attributes" . ProtocolPort: Kind::Map,
            default "AWS's defaults", example "tcp.idle_timeout.seconds=400",
            "Attributes of one listener, such as `aws-load-balancer-listener-attributes.TCP-80`. Protocol is that of the listener. AWS has some for TCP only.";
        ACTIONS "actions" . ProtocolPort: Kind::Json,
            default "the Service's own pods alone", example r#"{"type":"forward","forwardConfig":{"baseServiceWeight":90,"targetGroups":[{"serviceName":"canary","servicePort":80,"weight":10}]}}"#,
            "Share the traffic of one listener with other Services of the namespace (`serviceName`, `servicePort`) or other target groups (`targetGroupARN`), by weights from 0 to 999; at most four besides its own. `targetGroupStickinessConfig: {\"enabled\": true}` keeps a client with what it got first, but not with TLS.";
    }
    "Targets" {
        TARGET_TYPE "aws-load-balancer-nlb-target-type": Kind::OneOf(&["instance", "ip"]),
            default "`--aws-default-target-type`", example "ip",
            "`instance`: nodes at their node ports. `ip`: pods at their own addresses, which needs pods with addresses of the VPC. A change makes new target groups, which take over when their targets are healthy.";
        TARGET_NODE_LABELS "aws-load-balancer-target-node-labels": Kind::Map,
            default "all nodes", example "pool=edge",
            "Only nodes with all of these labels are targets. Only target type `instance`.";
        TARGET_GROUP_ATTRIBUTES "aws-load-balancer-target-group-attributes": Kind::Map,
            default "AWS's defaults", example "deregistration_delay.timeout_seconds=60,preserve_client_ip.enabled=true",
            "Attributes of all target groups. A key that is taken out goes back to AWS's default.";
        TARGET_GROUP_ATTRIBUTES_OF_PORT "aws-load-balancer-target-group-attributes" . Port: Kind::Map,
            default "those of all target groups", example "stickiness.enabled=true",
            "Attributes of the target group of one port, such as `aws-load-balancer-target-group-attributes.80`; they win over those of all.";
        PROXY_PROTOCOL "aws-load-balancer-proxy-protocol": Kind::OneOf(&["*"]),
            default "off", example "*",
            "PROXY protocol v2 to all targets (attribute `proxy_protocol_v2.enabled`).";
        PROXY_PROTOCOL_PORTS "aws-load-balancer-proxy-protocol-per-target-group": Kind::List,
            default "none", example "80,443",
            "PROXY protocol v2 to the targets of these ports only; `aws-load-balancer-proxy-protocol` wins.";
        MULTI_CLUSTER "aws-load-balancer-multi-cluster-target-group": Kind::Bool,
            default "`false`", example "true",
            "Other clusters register targets in the same target groups: only what this cluster registered is ever taken out. It is listed in the groups' tags, which hold about 400 targets. Where a group is replaced, the others have to register in the new one.";
    }
    "Health checks" {
        CHECK_PROTOCOL "aws-load-balancer-healthcheck-protocol": Kind::OneOfAnyCase(&["tcp", "http", "https"]),
            default "`tcp`; `http` for nodes with `externalTrafficPolicy: Local`", example "http",
            "How targets are checked. UDP can't be checked as such: without a word about port or protocol, a port of UDP alone is checked at the Service's first TCP port, else at kube-proxy (HTTP 10256, `/healthz`) on nodes, and at its own port by TCP on pods.";
        CHECK_PORT "aws-load-balancer-healthcheck-port": Kind::Text,
            default "`traffic-port`; `spec.healthCheckNodePort` for nodes with `externalTrafficPolicy: Local`", example "9090",
            "`traffic-port`, a number, or the name of a port of the Service.";
        CHECK_PATH "aws-load-balancer-healthcheck-path": Kind::Text,
            default "`/`; `/healthz` for nodes with `externalTrafficPolicy: Local`", example "/ready",
            "Path of HTTP and HTTPS checks.";
        CHECK_SUCCESS_CODES "aws-load-balancer-healthcheck-success-codes": Kind::Text,
            default "`200-399`", example "200",
            "Statuses of success of HTTP and HTTPS checks.";
        CHECK_INTERVAL "aws-load-balancer-healthcheck-interval": Kind::Integer(5, 300),
            default "10", example "5",
            "Seconds between two checks.";
        CHECK_TIMEOUT "aws-load-balancer-healthcheck-timeout": Kind::Integer(2, 120),
            default "10; 6 for nodes with `externalTrafficPolicy: Local`", example "5",
            "Seconds to wait for an answer.";
        CHECK_HEALTHY "aws-load-balancer-healthcheck-healthy-threshold": Kind::Integer(2, 10),
            default "3; 2 for nodes with `externalTrafficPolicy: Local`", example "2",
            "Successes in a row that make a target healthy.";
        CHECK_UNHEALTHY "aws-load-balancer-healthcheck-unhealthy-threshold": Kind::Integer(2, 10),
            default "3; 2 for nodes with `externalTrafficPolicy: Local`", example "2",
            "Failures in a row that make a target unhealthy.";
    }
    "Herald's own" {
        HOSTNAME_WHEN "aws-hostname-when" [Herald]: Kind::OneOf(&["active", "provisioning"]),
            default "`active`", example "provisioning",
            "When the Service's status has the hostname: once the load balancer carries traffic, or as soon as it has a name, which is minutes earlier and answers nothing until then.";
        LOCAL_NODES "aws-local-nodes" [Herald]: Kind::OneOf(&["with-endpoints", "all"]),
            default "`with-endpoints`", example "all",
            "Which nodes are targets with `externalTrafficPolicy: Local`: those with an endpoint of the Service, or all, of which the health check then picks. Only target type `instance`.";
        NOT_READY_NODES "aws-not-ready-nodes" [Herald]: Kind::OneOf(&["keep", "remove"]),
            default "`keep`", example "remove",
            "Whether a node whose condition Ready is not True stays a target. AWS's health checks know sooner and better than the condition whether it carries traffic, and a control plane that lost sight of nodes must not empty a load balancer. With `remove`, all are kept where none is ready. Only target type `instance`.";
        ADOPT_ARN "aws-adopt-load-balancer-arn" [Herald]: Kind::Text,
            default "none", example "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/net/shop/0a1b2c3d4e5f6071",
            "Take over this load balancer instead of making one; its DNS name stays. One that belongs to another Service or cluster is refused.";
        ADOPT_TAGS "aws-adopt-load-balancer-tags" [Herald]: Kind::Map,
            default "none", example "app=shop,env=prod",
            "The same for the only load balancer that has all of these tags.";
        REPLACE "aws-replace" [Herald]: Kind::Text,
            default "none", example "2026-03-01",
            "Any change of this word makes a new load balancer beside the old one, switches to it when it is healthy, and removes the old one.";
        ALLOW_OUTAGE "aws-allow-outage" [Herald]: Kind::Bool,
            default "`false`", example "true",
            "Where a change can't be made beside the old load balancer (it has the name or the Elastic IP addresses that the new one needs), delete the old one first. Without this such a change is refused. New target groups take over at once too, before their targets are healthy.";
    }
    "Without effect" {
        EIP_TAGS "aws-load-balancer-eip-allocations-discovery-tags" [Ignored]: Kind::Map,
            default "none", example "app=shop",
            "Herald does not look for Elastic IP addresses by tags; name them in `aws-load-balancer-eip-allocations`.";
        EXTRA_SECURITY_GROUPS "aws-load-balancer-extra-security-groups" [Ignored]: Kind::List,
            default "none", example "sg-0a1b2c3d",
            "It is of Classic Load Balancers; use `aws-load-balancer-security-groups`.";
        CONNECTION_DRAINING "aws-load-balancer-connection-draining-enabled" [Ignored]: Kind::Bool,
            default "none", example "true",
            "It is of Classic Load Balancers; use the target group attribute `deregistration_delay.timeout_seconds`.";
        CONNECTION_DRAINING_TIMEOUT "aws-load-balancer-connection-draining-timeout" [Ignored]: Kind::Text,
            default "none", example "60",
            "It is of Classic Load Balancers; use the target group attribute `deregistration_delay.timeout_seconds`.";
        CONNECTION_IDLE_TIMEOUT "aws-load-balancer-connection-idle-timeout" [Ignored]: Kind::Text,
            default "none", example "60",
            "It is of Classic Load Balancers; use the listener attribute `tcp.idle_timeout.seconds`.";
        ACCESS_LOG_INTERVAL "aws-load-balancer-access-log-emit-interval" [Ignored]: Kind::Text,
            default "none", example "5",
            "It is of Classic Load Balancers; a Network Load Balancer writes its logs when it likes.";
    }
}

impl Annotation {
    /// All of them.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        SECTIONS.iter().flat_map(|section| section.annotations)
    }
}
