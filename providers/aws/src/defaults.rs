//! AWS's defaults of attributes that a new Network Load Balancer, listener or target
//! group has, so that what was said and is the default already is not written.

/// The default of an attribute, where it is the same for all of its kind.
pub(crate) fn of(key: &str) -> Option<&'static str> {
    Some(match key {
        "deletion_protection.enabled"
        | "access_logs.s3.enabled"
        | "proxy_protocol_v2.enabled"
        | "stickiness.enabled" => "false",
        "access_logs.s3.bucket" | "access_logs.s3.prefix" => "",
        "dns_record.client_routing_policy" => "any_availability_zone",
        "tcp.idle_timeout.seconds" => "350",
        "deregistration_delay.timeout_seconds" => "300",
        _ => return None,
    })
}
