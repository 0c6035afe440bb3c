//! The process of a group: makes one lab, inside namespaces of its own, and
//! runs its cases one after the other.

use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use futures::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::context::HERALD;
use super::{Case, Context, Effort, Event, Isolation, Needs, Outcome, Overlay, Scenario, Verdict};
use crate::lab::{Lab, LabSpec};
use crate::{scenarios, vm};

/// A case that takes longer hangs.
const LONGEST: Duration = Duration::from_mins(15);
/// The same for one that only measures, and does so over and over.
const LONGEST_BENCH: Duration = Duration::from_hours(6);
/// How long one look at a failed scenario's cluster may take.
const LOOK: Duration = Duration::from_secs(20);

/// Lines of each log and of the events that are shown on a failure; the whole
/// is kept.
const SHOWN: usize = 12;

/// What the runner asks of the process of a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The lab.
    pub needs: Needs,
    /// What runs in it.
    pub cases: Vec<Case>,
    /// How much benches do.
    pub effort: Effort,
    /// Where logs and captures are kept.
    pub logs: PathBuf,
}

/// Runs the cases of a plan (JSON) and tells what came of them on standard
/// output, as [`Event`]s. Runs inside namespaces made by [`crate::isolate`].
pub async fn run(plan: &str) -> Result<()> {
    let plan: Plan = serde_json::from_str(plan).context("read the group's plan")?;
    let begin = Instant::now();
    let lab = match start(&plan).await {
        Ok(lab) => lab,
        Err(error) => {
            none_runs(&plan, &format!("the lab did not start: {error:#}"));
            return Ok(());
        }
    };
    let up = begin.elapsed();
    if plan.needs.nodes > 0
        && let Err(error) = lab.install(plan.needs.overlay.name()).await
    {
        let why = format!("Herald could not be installed: {error:#}");
        none_runs(&plan, &explain(&lab, HERALD, &plan.logs, why).await);
        return Ok(());
    }
    Event::Step {
        case: None,
        text: format!(
            "{}: up after {:.1} s, ready after {:.1} s",
            plan.needs,
            up.as_secs_f64(),
            begin.elapsed().as_secs_f64()
        ),
    }
    .tell();
    for (block, case) in (0_u8..).zip(&plan.cases) {
        Event::Began { case: case.label() }.tell();
        let begin = Instant::now();
        let (samples, result) = one(&lab, case, block, &plan.effort).await;
        let verdict = match result {
            Ok(()) => Verdict::Passed,
            Err(error) => {
                let why = format!("{error:#}");
                let folder = plan.logs.join(case.folder());
                Verdict::Failed(explain(&lab, &case.scenario, &folder, why).await)
            }
        };
        tell_end(&plan, case, verdict, begin.elapsed(), samples);
    }
    Ok(())
}

async fn start(plan: &Plan) -> Result<Lab> {
    Lab::start(LabSpec {
        nodes: plan.needs.nodes,
        clients: plan.needs.clients,
        families: plan.needs.families,
        proxy_mode: plan.needs.proxy_mode.to_string(),
        routers: plan.needs.routers.clone(),
        aws: plan.needs.overlay == Overlay::Aws,
        logs: plan.logs.clone(),
        ..LabSpec::default()
    })
    .await
}

/// All cases fail for the same reason, told in full once.
fn none_runs(plan: &Plan, why: &str) {
    let short = why.lines().next().unwrap_or_default();
    for (i, case) in plan.cases.iter().enumerate() {
        let why = if i == 0 { why } else { short };
        let verdict = Verdict::Failed(why.to_owned());
        tell_end(plan, case, verdict, Duration::ZERO, Vec::new());
    }
}

/// Runs one case, takes away what it made, and looks whether it left the lab
/// as it should be.
async fn one(
    lab: &Lab,
    case: &Case,
    block: u8,
    effort: &Effort,
) -> (Vec<super::Sample>, Result<()>) {
    let Some(scenario) = scenarios::ALL.iter().find(|s| s.name == case.scenario) else {
        return (
            Vec::new(),
            Err(anyhow!("there is no scenario {:?}", case.scenario)),
        );
    };
    let entered = Context::enter(lab.clone(), case.clone(), block, effort.clone());
    let mut context = match entered.await {
        Ok(context) => context,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let mut result = carry_out(scenario, &mut context).await;
    if result.is_ok() {
        result = tidy(scenario, &mut context).await;
    } else if let Err(error) = context.leave().await {
        // The scenario's own failure comes first; this one is told beside it.
        context.step(format!("also, when tidying up: {error:#}"));
    }
    if result.is_ok() {
        result = context.nothing_was_denied();
    }
    (context.take_samples(), result)
}

async fn carry_out(scenario: &Scenario, context: &mut Context) -> Result<()> {
    // A panic is a failure of one scenario, not of its company.
    let attempt = AssertUnwindSafe((scenario.run)(context)).catch_unwind();
    let longest = if scenario.only_bench {
        LONGEST_BENCH
    } else {
        LONGEST
    } * vm::patience();
    match timeout(longest, attempt).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            bail!("panicked: {text}")
        }
        Err(_) => bail!("did not end within {} s", longest.as_secs()),
    }
}

async fn tidy(scenario: &Scenario, context: &mut Context) -> Result<()> {
    context.leave().await.context("when tidying up")?;
    if scenario.isolation == Isolation::Shared {
        context
            .operator_is_well()
            .await
            .context("after the scenario")?;
        if scenario.overlay != Overlay::Aws {
            context
                .speakers_are_well()
                .await
                .context("after the scenario")?;
        }
    }
    Ok(())
}

fn tell_end(
    plan: &Plan,
    case: &Case,
    verdict: Verdict,
    took: Duration,
    samples: Vec<super::Sample>,
) {
    Event::Ended(Outcome {
        case: case.label(),
        verdict,
        seconds: took.as_secs_f64(),
        samples,
        logs: Some(plan.logs.clone()),
    })
    .tell();
}

/// The failure, the namespace's events and the ends of Herald's logs; the
/// whole state of the cluster is kept in the folder.
async fn explain(lab: &Lab, namespace: &str, folder: &Path, why: String) -> String {
    let mut kept = format!("{why}\n");
    let mut shown = format!("{why}\n");
    if !lab.spec.has_cluster() {
        return shown;
    }
    let events = look(
        lab,
        &["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"],
    )
    .await;
    append(&mut shown, &format!("events in {namespace}"), tail(&events));
    append(&mut kept, &format!("events in {namespace}"), &events);
    for args in [
        &["get", "nodes,svc,pods,endpointslices", "-A", "-o", "wide"][..],
        &["get", "svc", "-A", "-o", "yaml"],
        &[
            "-n",
            HERALD,
            "get",
            "ipaddresspools,l2advertisements,leases,events",
            "-o",
            "yaml",
        ],
    ] {
        append(
            &mut kept,
            &format!("kubectl {}", args.join(" ")),
            &look(lab, args).await,
        );
    }
    for i in 1..=lab.spec.nodes {
        let node = format!("n{i}");
        for program in ["ip address", "ip route", "ip neighbour", "nft list ruleset"] {
            let text = on_host(lab, &node, program).await;
            append(&mut kept, &format!("{node}: {program}"), &text);
        }
    }
    append(
        &mut kept,
        "c1: ip neighbour",
        &on_host(lab, "c1", "ip neighbour").await,
    );
    for log in herald_logs(lab.logs()) {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        append(&mut shown, &log.display().to_string(), tail(&text));
    }
    let file = folder.join("failure.txt");
    match std::fs::write(&file, kept) {
        Ok(()) => append(
            &mut shown,
            "state of the cluster",
            &file.display().to_string(),
        ),
        Err(error) => append(&mut shown, "state of the cluster", &error.to_string()),
    }
    shown
}

async fn look(lab: &Lab, args: &[&str]) -> String {
    match timeout(LOOK * vm::patience(), lab.kubectl(args)).await {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "kubectl did not end in time".to_owned(),
    }
}

async fn on_host(lab: &Lab, host: &str, program: &str) -> String {
    let mut words = program.split(' ');
    let output = lab
        .command(host, words.next().unwrap_or_default())
        .args(words)
        .output()
        .await;
    match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => error.to_string(),
    }
}

fn append(text: &mut String, heading: &str, body: &str) {
    // Writing to a String does not fail.
    let _ = write!(text, "--- {heading}\n{}\n", body.trim_end());
}

/// The last lines of a text.
fn tail(text: &str) -> &str {
    let text = text.trim_end();
    let begin = text
        .rmatch_indices('\n')
        .nth(SHOWN - 1)
        .map_or(0, |(at, _)| at + 1);
    &text[begin..]
}

/// Logs of the operators and the speakers, `<namespace>_<pod>_<container>.log`.
fn herald_logs(logs: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(logs.join("pods")) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&format!("{HERALD}_")))
        })
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines() {
        let lines: Vec<String> = (0..20).map(|i| i.to_string()).collect();
        let text = lines.join("\n") + "\n";
        assert_eq!(tail(&text).lines().count(), SHOWN);
        assert!(tail(&text).ends_with("19"));
        assert_eq!(tail("one\ntwo\n"), "one\ntwo");
    }
}
