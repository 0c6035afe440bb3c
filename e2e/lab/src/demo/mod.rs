//! `herald-lab demo`: from nothing to a Service that answers, loses its node
//! and lives on, then the same in a pretend cloud; in words for somebody who
//! sees it for the first time.
//!
//! ```text
//!   herald-lab demo                the outer process: builds what is missing,
//!    │                             holds the lifeline, says the last word
//!    └─ __demo (fresh namespaces)  the lab, and the walk through it
//! ```

mod bare_metal;
mod cloud;
mod stage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::lab::{Lab, LabSpec};
use crate::{assets, isolate};
use stage::{Stage, say};

/// Runs the demo in a lab of its own, which is gone afterwards.
pub(crate) fn run(logs: &Path) -> Result<ExitCode> {
    let begin = Instant::now();
    println!(
        "Herald's demo: a Kubernetes cluster on this machine, out of network namespaces, with\n\
         a real control plane and real packets. Nothing of the machine itself is changed.\n"
    );
    // Before the lab's own namespaces, which have no way out.
    assets::ensure()?;
    if logs.exists() {
        // Of an earlier run.
        fs::remove_dir_all(logs).with_context(|| format!("clear {}", logs.display()))?;
    }
    let logs = logs.to_string_lossy().into_owned();
    let mut child = isolate::command(&["__demo".to_owned(), logs.clone()], true)?
        .spawn()
        .context("start the lab")?;
    // Held until the end: when this process ends, however, so does the lab.
    // (`wait` would close it first if it were still the child's.)
    let lifeline = child.stdin.take();
    let status = child.wait().context("wait for the lab")?;
    drop(lifeline);
    if !status.success() {
        println!("\nThe demo failed. Its logs: {logs}");
        return Ok(ExitCode::FAILURE);
    }
    println!(
        "\nThat was the demo, in {:.0} s. The cluster is gone, and nothing of it is left.\n\
         To play with one yourself: target/debug/herald-lab up, and the tutorial in README.md.",
        begin.elapsed().as_secs_f64()
    );
    Ok(ExitCode::SUCCESS)
}

/// The walk; runs inside namespaces made by [`isolate`].
pub(crate) async fn walk(logs: PathBuf) -> Result<()> {
    let begin = Instant::now();
    let lab = Lab::start(LabSpec {
        logs,
        ..LabSpec::default()
    })
    .await?;
    let up = begin.elapsed();
    let mut stage = Stage::new(lab);
    stage.heading("The cluster");
    say(
        "etcd, kube-apiserver, kube-controller-manager and kube-scheduler run, and on each of \
         the nodes n1, n2 and n3 a kube-proxy and an agent that runs pods. Outside the cluster \
         stands c1, a client on the same network segment as the nodes.",
    );
    stage.kubectl("get nodes").await?;
    stage.figure("up", up.as_secs_f64(), "s");

    bare_metal::walk(&mut stage).await?;
    cloud::walk(&mut stage).await?;
    stage.close();
    Ok(())
}
