//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler on host
//! `cp`, with certificates, tokens and kubeconfigs made for this lab.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use crate::assets::Programs;
use crate::lab::LabSpec;
use crate::plan::{self, Families, Host};
use crate::process;
use crate::vm;

/// Where the control plane's files are and how to reach it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ControlPlane {
    directory: PathBuf,
    logs: PathBuf,
    programs: Programs,
    families: Families,
    /// `https://172.30.0.1:6443`.
    pub server: String,
}

impl ControlPlane {
    /// Makes certificates, tokens and kubeconfigs.
    pub fn prepare(
        spec: &LabSpec,
        directory: &Path,
        logs: &Path,
        programs: &Programs,
    ) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let address = addresses(spec.families)[0];
        let this = Self {
            directory: directory.to_owned(),
            logs: logs.to_owned(),
            programs: programs.clone(),
            families: spec.families,
            server: match address {
                IpAddr::V4(address) => format!("https://{address}:6443"),
                IpAddr::V6(address) => format!("https://[{address}]:6443"),
            },
        };
        this.certificates()?;
        this.tokens(spec)?;
        for user in ["admin", "controller-manager", "scheduler"] {
            write_kubeconfig(
                &this.kubeconfig(user),
                &this.server,
                &this.ca_file(),
                &token(user),
            )?;
        }
        fs::write(this.directory.join("audit.yaml"), AUDIT_POLICY)?;
        Ok(this)
    }

    /// CA certificate of the API server.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// A kubeconfig made by [`Self::prepare`]; `admin` may do everything.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.directory.join(format!("{user}.kubeconfig"))
    }

    /// Audit log of the API server: requests by Herald's service accounts, a
    /// JSON object a line.
    pub fn audit_log(&self) -> PathBuf {
        self.logs.join("audit.log")
    }

    /// Starts etcd and the API server; [`Self::start_controllers`] comes once it
    /// answers.
    pub fn start(&self) -> Result<()> {
        self.start_etcd()?;
        self.start_api_server()
    }

    /// Ends the controller manager and the scheduler. In a real cluster they end
    /// when an outage of the API server costs them their leader leases; were they
    /// to go on, they would act on what they knew before it, and take every node
    /// for dead until their watches are back.
    pub fn stop_controllers(&self) {
        for name in ["kube-controller-manager", "kube-scheduler"] {
            for found in process::find(process::PROCESS, name) {
                found.signal(nix::sys::signal::Signal::SIGKILL);
            }
        }
    }

    /// Starts the controller manager and the scheduler, which give up an API
    /// server that does not answer within 10 s.
    pub fn start_controllers(&self) -> Result<()> {
        self.start_controller_manager()?;
        self.start_scheduler()
    }

    fn start_controller_manager(&self) -> Result<()> {
        let mut manager = self.program("kube-controller-manager")?;
        manager
            .arg(flag("kubeconfig", self.kubeconfig("controller-manager")))
            .arg(flag(
                "service-account-private-key-file",
                self.directory.join("sa.key"),
            ))
            .arg(flag("root-ca-file", self.ca_file()))
            .args(["--leader-elect=false", "--allocate-node-cidrs=false"])
            .arg(format!("--cluster-cidr={}", self.cluster_cidr()))
            // A node that is silent for 4 s is NotReady, so that a scenario
            // needs no minute to see it.
            .arg("--node-monitor-period=1s")
            .arg(format!(
                "--node-monitor-grace-period={}s",
                4 * vm::patience()
            ))
            .args(["--bind-address=127.0.0.1", "--v=1"]);
        self.spawn(manager, "kube-controller-manager")
    }

    fn start_scheduler(&self) -> Result<()> {
        let mut scheduler = self.program("kube-scheduler")?;
        scheduler
            .arg(flag("kubeconfig", self.kubeconfig("scheduler")))
            .args(["--leader-elect=false", "--bind-address=127.0.0.1", "--v=1"]);
        self.spawn(scheduler, "kube-scheduler")
    }

    fn start_etcd(&self) -> Result<()> {
        let mut etcd = self.program("etcd")?;
        etcd.arg(flag("data-dir", self.directory.join("etcd")))
            .args(["--unsafe-no-fsync", "--log-level=warn"])
            .args(["--listen-client-urls=http://127.0.0.1:2379"])
            .args(["--advertise-client-urls=http://127.0.0.1:2379"])
            .args(["--listen-peer-urls=http://127.0.0.1:2380"])
            .args(["--initial-advertise-peer-urls=http://127.0.0.1:2380"])
            .args(["--initial-cluster=default=http://127.0.0.1:2380"]);
        self.spawn(etcd, "etcd")
    }

    /// Starts the API server alone, after it was stopped.
    pub fn start_api_server(&self) -> Result<()> {
        let addresses = addresses(self.families);
        let ranges: Vec<&str> = self
            .families
            .has_v4()
            .then_some(plan::SERVICE_CIDR_V4)
            .into_iter()
            .chain(self.families.has_v6().then_some(plan::SERVICE_CIDR_V6))
            .collect();
        let file = |name: &str| self.directory.join(name);
        let mut server = self.program("kube-apiserver")?;
        server
            .arg("--etcd-servers=http://127.0.0.1:2379")
            .arg(if addresses[0].is_ipv4() {
                "--bind-address=0.0.0.0"
            } else {
                "--bind-address=::"
            })
            .arg(format!("--advertise-address={}", addresses[0]))
            .arg("--secure-port=6443")
            .arg(flag("tls-cert-file", file("server.crt")))
            .arg(flag("tls-private-key-file", file("server.key")))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(flag("service-account-key-file", file("sa.pub")))
            .arg(flag("service-account-signing-key-file", file("sa.key")))
            .arg(flag("token-auth-file", file("tokens.csv")))
            .arg("--authorization-mode=Node,RBAC")
            .arg("--enable-admission-plugins=NodeRestriction")
            .arg(format!("--service-cluster-ip-range={}", ranges.join(",")))
            .arg("--allow-privileged")
            .arg("--kubelet-preferred-address-types=InternalIP")
            .arg(flag("audit-policy-file", file("audit.yaml")))
            .arg(flag("audit-log-path", self.audit_log()))
            .arg("--v=1");
        self.spawn(server, "kube-apiserver")
    }

    fn cluster_cidr(&self) -> &'static str {
        match self.families {
            Families::Ipv4 => plan::CLUSTER_CIDR_V4,
            Families::Ipv6 => plan::CLUSTER_CIDR_V6,
            Families::Dual => concat_cidrs(),
        }
    }

    fn program(&self, name: &str) -> Result<Command> {
        let path = self
            .programs
            .get(name)
            .with_context(|| format!("no program {name}"))?;
        Ok(process::in_host(Some(&Host::ControlPlane.name()), path))
    }

    fn spawn(&self, command: Command, name: &str) -> Result<()> {
        process::start(command, name, &process::log_path(&self.logs, name))
    }

    fn tokens(&self, spec: &LabSpec) -> Result<()> {
        let mut lines = vec![
            format!("{},lab-admin,lab-admin,system:masters", token("admin")),
            format!(
                "{},system:kube-controller-manager,kcm,system:masters",
                token("controller-manager")
            ),
            format!("{},system:kube-scheduler,scheduler", token("scheduler")),
            format!("{},system:kube-proxy,kube-proxy", token("kube-proxy")),
        ];
        for i in 1..=spec.nodes {
            let name = Host::Node(i).name();
            lines.push(format!(
                "{},system:node:{name},{name},system:nodes",
                token(&name)
            ));
        }
        fs::write(self.directory.join("tokens.csv"), lines.join("\n") + "\n")?;
        Ok(())
    }

    fn certificates(&self) -> Result<()> {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "herald-lab");
        self.write("ca.crt", &ca.self_signed(&ca_key)?.pem())?;
        let issuer = Issuer::new(ca, ca_key);

        let key = KeyPair::generate()?;
        let mut server = CertificateParams::new(vec![
            "kubernetes".to_owned(),
            "kubernetes.default.svc".to_owned(),
            "localhost".to_owned(),
        ])?;
        for address in ["127.0.0.1", "10.96.0.1", "fd96::1", "172.30.0.1", "fd30::1"] {
            server
                .subject_alt_names
                .push(SanType::IpAddress(address.parse()?));
        }
        self.write("server.crt", &server.signed_by(&key, &issuer)?.pem())?;
        self.write("server.key", &key.serialize_pem())?;

        let accounts = KeyPair::generate()?;
        self.write("sa.key", &accounts.serialize_pem())?;
        self.write("sa.pub", &accounts.public_key_pem())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }
}

/// The bearer token of a user of the lab. The lab's API server is reachable
/// from the lab's own namespaces only.
pub fn token(user: &str) -> String {
    format!("herald-lab-{user}")
}

/// Writes a kubeconfig for a bearer token.
pub fn write_kubeconfig(path: &Path, server: &str, ca: &Path, token: &str) -> Result<()> {
    let text = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": ca}}],
        "users": [{"name": "lab", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    });
    fs::write(path, serde_json::to_vec_pretty(&text)?)?;
    Ok(())
}

fn addresses(families: Families) -> Vec<IpAddr> {
    let (v4, v6) = Host::ControlPlane
        .management()
        .expect("the control plane is on management");
    match families {
        Families::Ipv4 => vec![v4.into()],
        Families::Ipv6 => vec![v6.into()],
        Families::Dual => vec![v4.into(), v6.into()],
    }
}

const fn concat_cidrs() -> &'static str {
    "10.244.0.0/16,fd44::/48"
}

fn flag(name: &str, path: impl AsRef<Path>) -> String {
    format!("--{name}={}", path.as_ref().display())
}

const AUDIT_POLICY: &str = r#"apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    userGroups: ["system:serviceaccounts:herald-system"]
  - level: None
"#;
