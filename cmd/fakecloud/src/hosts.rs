//! Keeps a hosts(5) file, so that clients can use the load balancers' names.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use crate::wire::HostEntry;

/// Writes a whole hosts file. It is renamed into place, so that readers see
/// the old one or the new one.
pub async fn write(path: &Path, entries: &[HostEntry]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    tokio::fs::write(&new, render(entries)).await?;
    tokio::fs::rename(&new, path).await
}

fn render(entries: &[HostEntry]) -> String {
    let mut text = String::from(
        "# Written by the pretend cloud; changes are overwritten.\n127.0.0.1\tlocalhost\n::1\tlocalhost\n",
    );
    for entry in entries {
        for address in &entry.addresses {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{address}\t{}", entry.hostname);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_a_line() {
        let text = render(&[HostEntry {
            hostname: "web.cloud.test".into(),
            addresses: vec![[192, 0, 2, 1].into(), "2001:db8::1".parse().unwrap()],
        }]);
        assert!(text.ends_with("192.0.2.1\tweb.cloud.test\n2001:db8::1\tweb.cloud.test\n"));
    }
}
