//! The command line: what `herald-lab` is told, and which part does it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use nix::sys::signal::Signal;

use crate::apiproxy::{self, ProxyArguments};
use crate::faults::{self, Direction};
use crate::frames::{
    AskArguments, HostileArguments, PeersArguments, RecordArguments, ReplayArguments,
    SurveyArguments,
};
use crate::lab::{Lab, LabSpec};
use crate::network::Network;
use crate::plan::Families;
use crate::prober::ProbeArguments;
use crate::router::{self, Software};
use crate::running::{self, Running};
use crate::scenario::{self, Kernel, ScenarioArguments};
use crate::{announcer, assets, aws, demo, init, node, setgroups, vm};

/// A Kubernetes cluster on one machine, out of network namespaces: real
/// control plane, real kube-proxy, real packets.
#[derive(Parser)]
#[command(name = "herald-lab", version, max_term_width = 90)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a lab and leave it running.
    Up(UpArgs),
    /// End a lab; nothing of it is left.
    Down(NameArgs),
    /// Names of the labs that run.
    Labs,
    /// Run a command on a host: cp, n1 ..., c1 ..., cloud, r1 ..., f1 ....
    Exec {
        #[command(flatten)]
        lab: NameArgs,
        /// Name of the host.
        host: String,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// kubectl, as administrator of the lab's cluster.
    Kubectl {
        /// Arguments of kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Do some harm.
    Fault {
        #[command(flatten)]
        lab: NameArgs,
        #[command(subcommand)]
        fault: Fault,
    },
    /// Measure from a host: numbered probes at a fixed rate, what was lost, the
    /// longest time without an answer.
    Probe {
        #[command(flatten)]
        lab: NameArgs,
        /// Name of the host.
        host: String,
        #[command(flatten)]
        probe: ProbeArguments,
    },
    /// Run scenarios, each in a lab made for it.
    Scenario(ScenarioArguments),
    /// Run the scenarios that measure something.
    Bench(ScenarioArguments),
    /// Show the scenarios.
    List,
    /// Walk through what Herald does, in a lab made for it.
    Demo,
    /// Build the control plane's programs, if need be, and say where they are.
    Assets,
    #[command(name = "__probe", hide = true)]
    ProbeHere(ProbeArguments),
    #[command(name = "__ask", hide = true)]
    AskHere(AskArguments),
    #[command(name = "__hostile", hide = true)]
    HostileHere(HostileArguments),
    #[command(name = "__survey", hide = true)]
    SurveyHere(SurveyArguments),
    #[command(name = "__record", hide = true)]
    RecordHere(RecordArguments),
    #[command(name = "__replay", hide = true)]
    ReplayHere(ReplayArguments),
    #[command(name = "__peers", hide = true)]
    PeersHere(PeersArguments),
    #[command(name = "__api-proxy", hide = true)]
    ApiProxy(ProxyArguments),
    #[command(name = "__demo", hide = true)]
    DemoHere { logs: PathBuf },
    #[command(name = "__group", hide = true)]
    Group { plan: String },
    #[command(name = "__init", hide = true)]
    Init {
        #[arg(long)]
        lifeline: bool,
        #[arg(last = true)]
        args: Vec<String>,
    },
    #[command(name = "__supervise", hide = true)]
    Supervise {
        spec: String,
        overlay: Option<String>,
    },
    #[command(name = "__node", hide = true)]
    Node {
        #[arg(long)]
        spec: PathBuf,
    },
    #[command(name = "__container", hide = true)]
    Container { sandbox: PathBuf },
    #[command(name = announcer::SUBCOMMAND, hide = true)]
    Announce { settings: String },
    #[command(name = announcer::sink::SUBCOMMAND, hide = true)]
    Sink { settings: String },
    #[command(name = announcer::bfd::SUBCOMMAND, hide = true)]
    BfdPeers { settings: String },
    #[command(name = announcer::hostile::SUBCOMMAND, hide = true)]
    HostilePeer { settings: String },
    #[command(name = router::SUBCOMMAND, hide = true)]
    Router {
        software: Software,
        #[arg(last = true)]
        words: Vec<String>,
    },
    #[command(name = setgroups::SUBCOMMAND, hide = true)]
    KeepGroups {
        #[arg(last = true)]
        words: Vec<String>,
    },
}

#[derive(Args)]
struct NameArgs {
    /// Which lab.
    #[arg(long, default_value = "lab", env = "HERALD_LAB")]
    name: String,
}

#[derive(Args)]
struct UpArgs {
    #[command(flatten)]
    lab: NameArgs,
    /// Nodes, n1 and so on.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=50))]
    nodes: u8,
    /// Clients outside the cluster, c1 and so on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=50))]
    clients: u8,
    /// Service LANs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    lans: u8,
    /// Routers outside the cluster, r1 and so on, each with a client behind it:
    /// frr, bird, gobgp, openbgpd, exabgp; a list with commas.
    #[arg(long, value_delimiter = ',', value_enum)]
    routers: Vec<Software>,
    /// vm: in a virtual machine with a stock kernel under software emulation,
    /// for what the host's kernel lacks; a shell there takes this terminal, and
    /// everything ends with it.
    #[arg(long, default_value = "host", value_enum)]
    kernel: Kernel,
    /// kube-proxy's mode; ipvs needs a kernel with IPVS.
    #[arg(long, default_value = "nftables", value_parser = ["nftables", "iptables", "ipvs"])]
    proxy_mode: String,
    /// IP families of the cluster.
    #[arg(long, default_value = "dual", value_enum)]
    families: Families,
    /// Leave kube-proxy's ipvs.strictARP off, as a cluster does that nobody told.
    #[arg(long)]
    no_strict_arp: bool,
    /// Without Herald.
    #[arg(long)]
    bare: bool,
    /// Which of deploy/overlays to install.
    #[arg(long, default_value = "bare-metal", conflicts_with = "bare")]
    overlay: String,
    /// A program that stands for an image in the lab, NAME=PROGRAM; repeatable.
    #[arg(long = "image", value_name = "NAME=PROGRAM", value_parser = image)]
    images: Vec<(String, PathBuf)>,
}

#[derive(Subcommand)]
enum Fault {
    /// End all of a node's processes and pull its cables.
    CrashNode { node: String },
    /// Boot a crashed node.
    BootNode { node: String },
    /// Drop every frame between a host and a network.
    Cut {
        host: String,
        /// management, lan0, ...
        network: Network,
        #[arg(long, default_value = "both")]
        direction: Direction,
    },
    /// Drop some frames between a host and a network, at random.
    Lose {
        host: String,
        /// management, lan0, ...
        network: Network,
        /// 1 to 100.
        percent: u8,
        #[arg(long, default_value = "both")]
        direction: Direction,
    },
    /// Drop what a host says by ARP and NDP about these addresses; all else passes.
    Mute {
        host: String,
        /// lan0, ...
        network: Network,
        #[arg(required = true)]
        addresses: Vec<IpAddr>,
    },
    /// End what cut, lose, mute and unplug did to that link.
    Heal { host: String, network: Network },
    /// Split a network: these hosts, and all others, hear only each other. With no
    /// hosts it is whole again.
    Split {
        /// management, lan0, ...
        network: Network,
        hosts: Vec<String>,
    },
    /// Pull a cable: both ends lose their carrier.
    Unplug { host: String, network: Network },
    /// End the API server as a crash would.
    StopApiServer,
    /// Start the API server again.
    StartApiServer,
    /// Send a signal to a container, NAMESPACE/POD/CONTAINER, or to a process
    /// of the lab such as fakecloud.
    Signal {
        /// SIGTERM, SIGKILL, SIGSTOP, SIGCONT, ...
        signal: Signal,
        target: String,
    },
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    // What reads our output may go away; that is its right.
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("herald-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Init { lifeline, args } => return init::run(&args, lifeline),
        Command::Node { spec } => {
            let spec = serde_json::from_slice(&std::fs::read(&spec)?)?;
            runtime()?.block_on(node::run(spec))?;
        }
        Command::Container { sandbox } => match node::become_container(&sandbox)? {},
        Command::Router { software, words } => match router::become_program(software, &words)? {},
        Command::KeepGroups { words } => match setgroups::run(&words)? {},
        Command::Supervise { spec, overlay } => {
            runtime()?.block_on(supervise(&spec, overlay.as_deref()))?;
        }
        Command::Up(args) => return up(args),
        Command::Down(lab) => Running::named(&lab.name)?.stop()?,
        Command::Labs => {
            for name in Running::all()? {
                println!("{name}");
            }
        }
        Command::Assets => {
            for (name, path) in assets::ensure()? {
                println!("{name} {}", path.display());
            }
            for software in Software::ALL {
                match router::packages::ensure(software) {
                    Ok(root) => println!("{software} {}", root.display()),
                    Err(error) => println!("{software} is not here: {error:#}"),
                }
            }
        }
        Command::Probe { lab, host, probe } => {
            if !running::inside() {
                return Running::named(&lab.name)?.enter();
            }
            let error = probe.in_host(&host, &std::env::current_exe()?).exec();
            return Err(error).with_context(|| format!("probe from {host}"));
        }
        Command::ProbeHere(probe) => {
            if !runtime()?.block_on(probe.run())? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::AskHere(ask) => runtime()?.block_on(ask.run())?,
        Command::ApiProxy(proxy) => runtime()?.block_on(apiproxy::run(proxy))?,
        Command::HostileHere(hostile) => runtime()?.block_on(hostile.run())?,
        Command::SurveyHere(survey) => runtime()?.block_on(survey.run())?,
        Command::RecordHere(record) => runtime()?.block_on(record.run())?,
        Command::ReplayHere(replay) => runtime()?.block_on(replay.run())?,
        Command::PeersHere(peers) => runtime()?.block_on(peers.run())?,
        Command::Announce { settings } => runtime()?.block_on(announcer::run(&settings))?,
        Command::Sink { settings } => runtime()?.block_on(announcer::sink::run(&settings))?,
        Command::BfdPeers { settings } => runtime()?.block_on(announcer::bfd::run(&settings))?,
        Command::HostilePeer { settings } => {
            runtime()?.block_on(announcer::hostile::run(&settings))?;
        }
        Command::Scenario(args) => return runtime()?.block_on(args.run()),
        Command::Bench(args) => return runtime()?.block_on(args.bench()),
        Command::Demo => return demo::run(&scenario::default_logs()?.join("demo")),
        Command::DemoHere { logs } => runtime()?.block_on(demo::walk(logs))?,
        Command::List => print!("{}", scenario::list()),
        Command::Group { plan } => runtime()?.block_on(scenario::run_group(&plan))?,
        Command::Exec { lab, host, command } => {
            if !running::inside() {
                return Running::named(&lab.name)?.enter();
            }
            let [program, args @ ..] = command.as_slice() else {
                bail!("no command given")
            };
            let error = aws::with_names(Some(&host), program.as_ref())
                .args(args)
                .exec();
            return Err(error).with_context(|| format!("run a command on {host}"));
        }
        Command::Kubectl { args } => {
            if !running::inside() {
                let name = std::env::var("HERALD_LAB").unwrap_or_else(|_| "lab".into());
                return Running::named(&name)?.enter();
            }
            let lab = runtime()?.block_on(Lab::open())?;
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            return Err(lab.kubectl_command(&args).exec()).context("run kubectl");
        }
        Command::Fault { lab, fault } => {
            if !running::inside() {
                return Running::named(&lab.name)?.enter();
            }
            runtime()?.block_on(do_harm(fault))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the async runtime")
}

fn up(args: UpArgs) -> Result<ExitCode> {
    let running = Running::named(&args.lab.name)?;
    if args.kernel == Kernel::Vm && !vm::inside() {
        // Here, because the guest has no way to fetch anything.
        assets::ensure()?;
        return vm::shell(&running.logs());
    }
    let spec = LabSpec {
        nodes: args.nodes,
        clients: args.clients,
        lans: args.lans,
        routers: args.routers,
        families: args.families,
        proxy_mode: args.proxy_mode,
        strict_arp: !args.no_strict_arp,
        aws: !args.bare && args.overlay == "aws",
        images: args.images.into_iter().collect::<BTreeMap<_, _>>(),
        logs: running.logs(),
    };
    // Before the lab's own namespaces, which have no way out.
    assets::ensure()?;
    for software in &spec.routers {
        router::packages::ensure(*software)?;
    }
    let mut inner = vec!["__supervise".to_owned(), serde_json::to_string(&spec)?];
    if !args.bare {
        inner.push(args.overlay);
    }
    running.start(&inner)?;
    eprintln!(
        "lab: {} is up; try: herald-lab kubectl get nodes; end it with: herald-lab down",
        args.lab.name
    );
    Ok(ExitCode::SUCCESS)
}

/// The main process of a lab that `up` leaves running.
async fn supervise(spec: &str, overlay: Option<&str>) -> Result<()> {
    let lab = Lab::start(serde_json::from_str(spec)?).await?;
    if let Some(overlay) = overlay {
        lab.install(overlay).await?;
        eprintln!("lab: Herald installed from deploy/overlays/{overlay}");
    }
    running::announce_ready(lab.logs())?;
    std::future::pending().await
}

async fn do_harm(fault: Fault) -> Result<()> {
    match fault {
        Fault::CrashNode { node } => faults::crash_node(&Lab::open().await?, &node),
        Fault::BootNode { node } => faults::boot_node(&Lab::open().await?, &node),
        Fault::Cut {
            host,
            network,
            direction,
        } => faults::cut(&host, network, direction),
        Fault::Lose {
            host,
            network,
            percent,
            direction,
        } => faults::lose(&host, network, direction, percent),
        Fault::Mute {
            host,
            network,
            addresses,
        } => faults::mute(&host, network, &addresses),
        Fault::Heal { host, network } => faults::heal(&host, network),
        Fault::Split { network, hosts } => {
            let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
            faults::split(&hosts, network)
        }
        Fault::Unplug { host, network } => faults::plug(&host, network, false),
        Fault::StopApiServer => faults::stop_api_server(),
        Fault::StartApiServer => Lab::open().await?.start_api_server().await,
        Fault::Signal { signal, target } if target.contains('/') => {
            faults::signal_container(&target, signal)
        }
        Fault::Signal { signal, target } => faults::signal_process(&target, signal),
    }
}

fn image(text: &str) -> Result<(String, PathBuf), String> {
    let (name, program) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not NAME=PROGRAM"))?;
    let path = std::path::absolute(program).map_err(|error| error.to_string())?;
    if !path.is_file() {
        return Err(format!("{} is no program", path.display()));
    }
    Ok((name.to_owned(), path))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_image_needs_a_program() {
        assert!(image("web=/bin/sh").is_ok());
        assert!(image("web").is_err());
        assert!(image("web=/no/such/program").is_err());
    }
}
