//! What the demo shows: headings, words, commands with their output, figures.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::Api;

use crate::lab::Lab;
use crate::prober::{Options, ProbeReport, Prober, Probing, Target};
use crate::scenario::services::{ingress_addresses, ready_condition};
use crate::scenario::{Client, Cloud, Figure, wait};

/// The client outside the cluster.
const CLIENT: &str = "c1";

/// Requests a second while something goes wrong.
pub(super) const RATE: NonZeroU16 = NonZeroU16::new(100).expect("it is not zero");

/// Width of the text.
const WIDTH: usize = 88;

/// The lab, and what has been shown of it.
pub(super) struct Stage {
    lab: Lab,
    headings: u8,
    figures: Vec<Figure>,
}

impl Stage {
    pub(super) const fn new(lab: Lab) -> Self {
        Self {
            lab,
            headings: 0,
            figures: Vec::new(),
        }
    }

    pub(super) const fn lab(&self) -> &Lab {
        &self.lab
    }

    pub(super) const fn client(&self) -> Client<'_> {
        Client::of(&self.lab, CLIENT)
    }

    pub(super) fn cloud(&self) -> Result<Cloud> {
        Cloud::of(&self.lab)
    }

    pub(super) fn heading(&mut self, text: &str) {
        if self.headings == 0 {
            println!();
        }
        self.headings += 1;
        println!("=== {}. {text}\n", self.headings);
    }

    /// Notes a figure and says it at the end.
    pub(super) fn figure(&mut self, what: &str, value: f64, unit: &str) {
        self.figures.push(Figure {
            name: format!("demo/{what}"),
            value: (value * 10.0).round() / 10.0,
            unit: unit.to_owned(),
        });
    }

    /// All figures.
    pub(super) fn close(&mut self) {
        self.heading("Figures");
        for figure in &self.figures {
            println!("{figure}");
        }
    }

    /// Shows and runs `kubectl LINE`; words are separated by single spaces.
    pub(super) async fn kubectl(&self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split(' ').collect();
        show_command("", "kubectl", &words);
        let output = self.lab.kubectl(&words).await?;
        show_output(&output);
        Ok(output)
    }

    /// Shows and applies a manifest.
    pub(super) async fn apply(&self, manifest: &str) -> Result<()> {
        println!("  $ kubectl apply -f - <<END");
        for line in manifest.trim().lines() {
            println!("  {line}");
        }
        println!("  END\n");
        self.lab.apply(manifest).await
    }

    /// Shows and runs a program on the client.
    pub(super) async fn on_client(&self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let [program, args @ ..] = words.as_slice() else {
            return Ok(());
        };
        show_command(CLIENT, program, args);
        show_output(&self.client().run(program, args).await?);
        Ok(())
    }

    /// Waits for the addresses of a Service, as many as its families.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>> {
        wait::object(
            self.services(),
            name,
            &format!("Service {name} to have its addresses"),
            |service| {
                let service = service?;
                let families = service.spec.as_ref()?.ip_families.as_ref()?.len();
                let addresses = ingress_addresses(service);
                (addresses.len() == families).then_some(addresses)
            },
        )
        .await
    }

    /// Waits until the condition of a Service has this reason; its message.
    pub(super) async fn condition(&self, name: &str, reason: &str) -> Result<String> {
        wait::object(
            self.services(),
            name,
            &format!("Service {name} to be {reason}"),
            |service| {
                let condition = ready_condition(service?)?;
                (condition.reason == reason).then(|| condition.message.clone())
            },
        )
        .await
    }

    fn services(&self) -> Api<Service> {
        Api::default_namespaced(self.lab.kube())
    }

    /// Sends HTTP requests from the client until one is answered.
    pub(super) async fn first_answer(&self, address: IpAddr) -> Result<()> {
        let options = Options::new(Target::http(address, 80), RATE);
        let mut probing = Prober::start(CLIENT, &options)?;
        probing.wait_answered(1).await?;
        probing.stop().await.map(drop)
    }

    /// Starts HTTP requests from the client; returns when they are answered.
    pub(super) async fn ask(&self, address: IpAddr) -> Result<Probing> {
        let options = Options::new(Target::http(address, 80), RATE);
        let mut probing = Prober::start(CLIENT, &options)?;
        probing.wait_answered(u64::from(RATE.get())).await?;
        Ok(probing)
    }

    /// Waits until a second's requests have been answered in a second, and
    /// tells what became of all of them.
    pub(super) async fn until_all_is_well(&self, mut probing: Probing) -> Result<ProbeReport> {
        let limit = Duration::from_mins(2);
        let begin = Instant::now();
        loop {
            let before = probing.progress().lost;
            probing.wait_answered(2 * u64::from(RATE.get())).await?;
            if probing.progress().lost == before {
                break;
            }
            ensure!(
                begin.elapsed() < limit,
                "requests are still lost after {limit:?}"
            );
        }
        let report = probing.stop().await?;
        println!(
            "  {} requests, {} a second: {} answered, {} lost; longest time without an answer {:.1} s\n",
            report.sent,
            RATE,
            report.answered,
            report.lost,
            report.longest_gap().as_secs_f64()
        );
        Ok(report)
    }

    /// Waits until every node is Ready and every pod of Herald's runs.
    pub(super) async fn all_is_well(&self) -> Result<()> {
        self.lab.nodes_ready(wait::PATIENCE).await?;
        for workload in ["deployment/herald-operator", "daemonset/herald-speaker"] {
            self.lab
                .kubectl(&[
                    "-n",
                    "herald-system",
                    "rollout",
                    "status",
                    workload,
                    "--timeout=60s",
                ])
                .await
                .with_context(|| format!("wait for {workload}"))?;
        }
        Ok(())
    }
}

/// Some sentences.
pub(super) fn say(text: &str) {
    println!("{}\n", wrap(text));
}

/// Something that happened.
pub(super) fn note(text: &str) {
    println!("  {text}\n");
}

fn show_command(host: &str, program: &str, args: &[&str]) {
    let mut line = format!("  {host}$ {program}");
    for arg in args {
        line.push(' ');
        if arg.contains(['{', '"', '(']) {
            line.push('\'');
            line.push_str(arg);
            line.push('\'');
        } else {
            line.push_str(arg);
        }
    }
    println!("{line}");
}

fn show_output(output: &str) {
    for line in output.trim_end().lines() {
        println!("  {}", line.trim_end());
    }
    println!();
}

/// Breaks a text into lines.
fn wrap(text: &str) -> String {
    let mut wrapped = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            wrapped.push('\n');
            column = 0;
        } else if column > 0 {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += length;
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_no_longer_than_they_may_be_and_lose_no_word() {
        let text = "one two three ".repeat(40);
        let wrapped = wrap(&text);
        assert!(
            wrapped
                .lines()
                .all(|line| line.len() <= WIDTH && !line.ends_with(' '))
        );
        assert!(wrapped.lines().count() > 5);
        let words: Vec<&str> = wrapped.split_whitespace().collect();
        assert_eq!(words, text.split_whitespace().collect::<Vec<_>>());
    }
}
