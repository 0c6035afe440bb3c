//! What the speakers count.

use anyhow::{Context as _, Result, ensure};

use super::{Context, wait};
use crate::plan::Host;

/// Port of a speaker's metrics.
const PORT: u16 = 7473;

/// One answer of `/metrics`.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    /// The sum over all samples with this name and these labels; 0 where there
    /// are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.0
            .lines()
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                let (named, of) = series.split_once('{').unwrap_or((series, ""));
                let has = |(label, value): &(&str, &str)| {
                    of.trim_end_matches('}')
                        .split(',')
                        .any(|pair| pair == format!("{label}=\"{value}\""))
                };
                (named == name && labels.iter().all(has))
                    .then(|| value.parse::<f64>().ok())
                    .flatten()
            })
            .sum()
    }
}

impl Context {
    /// What the speaker of a node counts, now.
    pub async fn speaker_metrics(&self, node: &str) -> Result<Metrics> {
        let number = node.strip_prefix('n').and_then(|i| i.parse().ok());
        let number = number.with_context(|| format!("{node} is no node"))?;
        let (v4, v6) = Host::Node(number)
            .management()
            .context("nodes are on management")?;
        let host = if self.families().has_v4() {
            v4.to_string()
        } else {
            format!("[{v6}]")
        };
        let url = format!("http://{host}:{PORT}/metrics");
        let output = tokio::process::Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--max-time", "2"])
            .arg(&url)
            .kill_on_drop(true)
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "{url}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(Metrics(
            String::from_utf8_lossy(&output.stdout).into_owned(),
        ))
    }

    /// A metric summed over the speakers of all nodes.
    pub async fn over_speakers(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let mut sum = 0.0;
        for node in self.nodes() {
            sum += self.speaker_metrics(&node).await?.sum(name, labels);
        }
        Ok(sum)
    }

    /// Waits until every speaker runs and hears all the others, by what they
    /// count at this moment: a status object may be of before a crash.
    pub async fn speakers_hear_each_other(&self) -> Result<()> {
        let others = f64::from(self.node_count() - 1);
        let up = [("liveness", "Up"), ("interface", "lan0")];
        for node in self.nodes() {
            wait::until(
                &format!("the speaker of {node} to hear the others"),
                || async {
                    let heard = self
                        .speaker_metrics(&node)
                        .await?
                        .sum("herald_l2_peers", &up);
                    ensure!((heard - others).abs() < 0.5, "it hears {heard}");
                    Ok(())
                },
            )
            .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_labels() {
        let metrics = Metrics(
            "# TYPE herald_l2_peers gauge\n\
             herald_l2_peers{interface=\"lan0\",liveness=\"Up\"} 2\n\
             herald_l2_peers{interface=\"lan1\",liveness=\"Up\"} 1\n\
             herald_l2_peers{interface=\"lan0\",liveness=\"Down\"} 4\n\
             herald_l2_peers_more 9\n\
             # EOF\n"
                .into(),
        );
        assert!((metrics.sum("herald_l2_peers", &[]) - 7.0).abs() < f64::EPSILON);
        let up = [("liveness", "Up"), ("interface", "lan0")];
        assert!((metrics.sum("herald_l2_peers", &up) - 2.0).abs() < f64::EPSILON);
        assert!(metrics.sum("none", &[]).abs() < f64::EPSILON);
    }
}
