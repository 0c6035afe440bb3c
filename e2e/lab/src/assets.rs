//! The control plane's programs: from `KUBEBUILDER_ASSETS`, from `PATH`, or
//! built once from their Go modules and cached outside the tree by version.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// A Go module that programs are built from.
struct Module {
    name: &'static str,
    /// `go.mod` and `go.sum`.
    files: [&'static str; 2],
    /// The module whose version counts.
    version_of: &'static str,
    programs: &'static [(&'static str, &'static str)],
}

const MODULES: [Module; 2] = [
    Module {
        name: "kubernetes",
        files: [
            include_str!("../controlplane/kubernetes/go.mod"),
            include_str!("../controlplane/kubernetes/go.sum"),
        ],
        version_of: "k8s.io/kubernetes",
        programs: &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            (
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
            ),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
    },
    Module {
        name: "etcd",
        files: [
            include_str!("../controlplane/etcd/go.mod"),
            include_str!("../controlplane/etcd/go.sum"),
        ],
        version_of: "go.etcd.io/etcd/server/v3",
        programs: &[("etcd", "go.etcd.io/etcd/server/v3")],
    },
];

/// Programs by name.
pub type Programs = BTreeMap<String, PathBuf>;

/// Where the lab keeps what it builds or fetches:
/// `$HERALD_CACHE`, else `$XDG_CACHE_HOME/herald`, else `~/.cache/herald`.
pub fn cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    variable("HERALD_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("herald")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/herald")))
        .unwrap_or_else(|| PathBuf::from("/tmp/herald-cache"))
}

/// Every program of the control plane, built first where it must be.
pub fn ensure() -> Result<Programs> {
    let mut programs = Programs::new();
    for module in &MODULES {
        let version = module.version()?;
        let directory = cache()
            .join("controlplane")
            .join(format!("{}-{version}", module.name));
        for (name, package) in module.programs {
            let path = match Module::installed(name, &version) {
                Some(path) => path,
                None => module.build(name, package, &version, &directory)?,
            };
            programs.insert((*name).to_owned(), path);
        }
    }
    Ok(programs)
}

impl Module {
    fn version(&self) -> Result<String> {
        self.files[0]
            .lines()
            .find_map(|line| {
                let mut words = line
                    .trim()
                    .trim_start_matches("require ")
                    .split_whitespace();
                (words.next() == Some(self.version_of))
                    .then_some(words.next())
                    .flatten()
            })
            .filter(|version| version.starts_with('v'))
            .map(str::to_owned)
            .with_context(|| format!("go.mod of {} names no {}", self.name, self.version_of))
    }

    /// A program that the user gave us or the machine has, if it is of the
    /// same minor version.
    fn installed(name: &str, version: &str) -> Option<PathBuf> {
        let given = std::env::var_os("KUBEBUILDER_ASSETS")
            .map(|directory| PathBuf::from(directory).join(name))
            .filter(|path| path.is_file());
        if given.is_some() {
            return given;
        }
        let minor = minor(version)?;
        std::env::split_paths(&std::env::var_os("PATH")?)
            .map(|directory| directory.join(name))
            .find(|path| path.is_file())
            .filter(|path| reports(path, name, minor))
    }

    fn build(&self, name: &str, package: &str, version: &str, directory: &Path) -> Result<PathBuf> {
        let target = directory.join(name);
        if target.is_file() {
            return Ok(target);
        }
        let module = directory.join("module");
        fs::create_dir_all(&module).with_context(|| format!("make {}", module.display()))?;
        // Two labs may start at once: one builds, the other waits.
        let lock = File::create(directory.join("lock"))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .context("lock the cache of control plane programs")?;
        if target.is_file() {
            return Ok(target);
        }
        for (file, text) in ["go.mod", "go.sum"].into_iter().zip(self.files) {
            fs::write(module.join(file), text)?;
        }
        eprintln!("assets: building {name} {version} (once; the first one takes minutes)");
        let begin = Instant::now();
        let partial = directory.join(format!("{name}.partial"));
        let status = Command::new("go")
            .args(["build", "-trimpath", "-ldflags", &ldflags(version), "-o"])
            .arg(&partial)
            .arg(package)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly")
            .current_dir(&module)
            .status()
            .context("run go (1.21 or later; package golang-go, or see go.dev/dl)")?;
        if !status.success() {
            bail!("building {package} {version} failed: {status}");
        }
        fs::rename(&partial, &target)?;
        eprintln!(
            "assets: {name} built in {:.0} s",
            begin.elapsed().as_secs_f64()
        );
        Ok(target)
    }
}

/// Without a version the API server takes itself for v0.0.0.
fn ldflags(version: &str) -> String {
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or("0"), parts.next().unwrap_or("0"));
    let p = "k8s.io/component-base/version";
    format!(
        "-s -w -X {p}.gitVersion={version} -X {p}.gitMajor={major} -X {p}.gitMinor={minor} \
         -X {p}.gitTreeState=clean -X {p}.gitCommit=0000000000000000000000000000000000000000 \
         -X {p}.buildDate=1970-01-01T00:00:00Z"
    )
}

/// `1.37` of `v1.37.2`.
fn minor(version: &str) -> Option<&str> {
    let version = version.trim_start_matches('v');
    let end = version.match_indices('.').nth(1)?.0;
    version.get(..end)
}

fn reports(path: &Path, name: &str, minor: &str) -> bool {
    let mut command = Command::new(path);
    if name == "kubectl" {
        command.args(["version", "--client"]);
    } else {
        command.arg("--version");
    }
    command.output().is_ok_and(|output| {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.contains(&format!("v{minor}.")) || said.contains(&format!("Version: {minor}."))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_go_modules() {
        for module in &MODULES {
            let version = module.version().unwrap();
            assert!(
                version.starts_with('v') && minor(&version).is_some(),
                "{version}"
            );
        }
    }

    #[test]
    fn a_minor_version_is_its_first_two_numbers() {
        assert_eq!(minor("v1.37.2"), Some("1.37"));
        assert_eq!(minor("v1"), None);
    }
}
