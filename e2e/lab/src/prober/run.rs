//! The prober's own loop, in the client's network namespace.

use std::future::Future;
use std::io::{self, Write};
use std::num::NonZeroU16;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{Answer, Event, ProbeReport, Progress, Tally, Target, probe};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(50);

/// What to probe, how fast and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is probed.
    pub target: Target,
    /// Probes a second.
    pub rate: NonZeroU16,
    /// A probe without an answer for so long is lost.
    pub timeout: Duration,
}

impl Options {
    /// Probes of `target` at `rate` a second, lost after one second.
    pub const fn new(target: Target, rate: NonZeroU16) -> Self {
        Self {
            target,
            rate,
            timeout: Duration::from_secs(1),
        }
    }
}

/// How the prober tells what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// JSON lines ([`Event`]), for programs.
    Json,
    /// A line a second and a summary, for people.
    Text,
}

/// One probe's end.
struct Outcome {
    at: Duration,
    answer: Result<Answer, String>,
}

/// Probes until `stop` is ready, then waits for the probes under way and
/// tells the report on standard output.
pub async fn run(
    options: Options,
    output: Output,
    stop: impl Future<Output = ()>,
) -> io::Result<ProbeReport> {
    let spacing = Duration::from_secs(1) / u32::from(options.rate.get());
    let began = Timestamp::now();
    let start = Instant::now();
    let mut tally = Tally::new(spacing);
    let mut under_way = 0_u64;
    let (outcomes, mut ended) = mpsc::unbounded_channel();

    let mut ticks = interval(spacing);
    // After a stall of our own, go on at the rate: a burst would measure the
    // burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut telling = interval(match output {
        Output::Json => PROGRESS,
        Output::Text => Duration::from_secs(1),
    });
    telling.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Progress::default();

    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = ticks.tick() => {
                tally.sent(start.elapsed());
                under_way += 1;
                let (number, options, outcomes) =
                    (tally.progress().sent, options.clone(), outcomes.clone());
                tokio::spawn(async move {
                    let answer = match timeout(options.timeout, probe::once(&options.target, number)).await {
                        Ok(answer) => answer.map_err(|error| error.to_string()),
                        Err(_) => Err("no answer in time".to_owned()),
                    };
                    // The receiver lives until every probe has ended.
                    let _ = outcomes.send(Outcome { at: start.elapsed(), answer });
                });
            }
            Some(outcome) = ended.recv() => {
                under_way -= 1;
                count(&mut tally, outcome);
            }
            _ = telling.tick() => {
                if tally.progress() != told {
                    told = tally.progress();
                    tell_progress(output, start.elapsed(), told)?;
                }
            }
        }
    }
    while under_way > 0 {
        let Some(outcome) = ended.recv().await else {
            break;
        };
        under_way -= 1;
        count(&mut tally, outcome);
    }
    let report = tally.report(options.target.to_string(), began);
    tell_report(output, &report)?;
    Ok(report)
}

fn count(tally: &mut Tally, outcome: Outcome) {
    match outcome.answer {
        Ok(answer) => tally.answered(outcome.at, answer),
        Err(why) => tally.lost(why),
    }
}

fn tell_progress(output: Output, at: Duration, progress: Progress) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match output {
        Output::Json => write_event(&mut out, &Event::Progress(progress))?,
        Output::Text => writeln!(
            out,
            "{:6.1}s  sent {}  answered {}  lost {}",
            at.as_secs_f32(),
            progress.sent,
            progress.answered,
            progress.lost
        )?,
    }
    out.flush()
}

fn tell_report(output: Output, report: &ProbeReport) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match output {
        Output::Json => write_event(&mut out, &Event::Report(report.clone()))?,
        Output::Text => {
            writeln!(
                out,
                "{}: {} sent, {} answered, {} lost",
                report.target, report.sent, report.answered, report.lost
            )?;
            writeln!(
                out,
                "longest time without an answer: {} ms, from {} (the prober itself was at most {} ms late)",
                report.longest_gap_ms, report.gap_began, report.longest_stall_ms
            )?;
            for (pod, count) in &report.answerers {
                writeln!(out, "  {count:>8} answers from {pod}")?;
            }
            for (client, count) in &report.clients {
                writeln!(out, "  {count:>8} answers to {client}")?;
            }
            for (why, count) in &report.errors {
                writeln!(out, "  {count:>8} lost: {why}")?;
            }
        }
    }
    out.flush()
}

fn write_event(out: &mut impl Write, event: &Event) -> io::Result<()> {
    serde_json::to_writer(&mut *out, event)?;
    writeln!(out)
}
