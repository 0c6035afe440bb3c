//! Names in a pod: `/etc/hosts` as the kubelet writes it, and an
//! `/etc/resolv.conf` for a cluster without DNS.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use k8s_openapi::api::core::v1::PodSpec;

use super::sandbox::Mount;

/// Without a server to ask, a lookup fails at once instead of after the
/// seconds that the machine's own servers, out of reach here, would take.
const RESOLV_CONF: &str = "# The lab has no DNS.\noptions attempts:1 timeout:1\n";

/// Writes a pod's files; says where a container sees them.
pub(super) fn write(
    spec: &PodSpec,
    hostname: &str,
    addresses: &[IpAddr],
    directory: &Path,
) -> Result<Vec<Mount>> {
    let files = [
        ("hosts", hosts(spec, hostname, addresses)),
        ("resolv.conf", RESOLV_CONF.to_owned()),
    ];
    files
        .into_iter()
        .map(|(name, text)| {
            let source = directory.join(name);
            fs::write(&source, text)?;
            Ok(Mount {
                source,
                target: PathBuf::from("/etc").join(name),
                read_only: true,
            })
        })
        .collect()
}

fn hosts(spec: &PodSpec, hostname: &str, addresses: &[IpAddr]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n");
    for address in addresses {
        let _ = writeln!(text, "{address}\t{hostname}");
    }
    for alias in spec.host_aliases.iter().flatten() {
        let names = alias.hostnames.as_deref().unwrap_or_default().join(" ");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_knows_itself_and_its_aliases() {
        let spec: PodSpec = serde_json::from_value(serde_json::json!({
            "containers": [],
            "hostAliases": [{"ip": "10.0.0.9", "hostnames": ["db", "db.example"]}],
        }))
        .unwrap();
        let text = hosts(&spec, "web-1", &["10.244.1.2".parse().unwrap()]);
        assert!(text.contains("\n10.244.1.2\tweb-1\n"), "{text}");
        assert!(text.ends_with("10.0.0.9\tdb db.example\n"), "{text}");
    }
}
