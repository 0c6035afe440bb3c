//! The account in AWS's stand-in, seen by its owner: what exists, what was called,
//! and what goes wrong (docs/fakeaws.md); and by another program that uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use super::exchange::exchange;
use super::{Context, wait};
use crate::aws::{CLUSTER, PORT, REGION, VPC};
use crate::lab::sibling;
use crate::plan::Host;

/// Parameters of a call, by name.
pub type Parameters<'a> = &'a [(&'a str, &'a str)];

/// The account that the lab's nodes are in.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    address: SocketAddr,
}

/// One thing that exists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Resource {
    /// `loadBalancer`, `listener`, `targetGroup`, `target`, `securityGroup`, `rule`, ...
    pub kind: String,
    /// ARN or id.
    pub id: String,
    /// Its name, or what it says.
    pub name: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// A registered target and what AWS says of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetState {
    /// Of an instance, or an address.
    pub id: String,
    /// `healthy`, `draining`, ...
    pub state: String,
}

impl Context {
    /// The account, for its owner.
    pub fn account(&self) -> Result<Account> {
        let (v4, _) = Host::Cloud
            .management()
            .context("the cloud is on management")?;
        Ok(Account {
            address: SocketAddr::new(IpAddr::V4(v4), PORT),
        })
    }

    /// Herald has called nothing that the policy which its own command prints does
    /// not allow. Conditions of the policy are not looked at.
    pub async fn calls_are_within_the_policy(&self) -> Result<()> {
        let output = tokio::process::Command::new(sibling("herald-operator")?)
            .args(["aws-iam-policy", "--adoption", "--cluster-name", CLUSTER])
            .args(["--vpc-id", VPC])
            .output()
            .await
            .context("print the IAM policy")?;
        let policy: Value = serde_json::from_slice(&output.stdout).context("read the policy")?;
        let mut allowed = BTreeSet::new();
        for statement in policy["Statement"].as_array().into_iter().flatten() {
            match &statement["Action"] {
                Value::String(action) => drop(allowed.insert(action.clone())),
                actions => allowed.extend(
                    actions
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(|action| Some(action.as_str()?.to_owned())),
                ),
            }
        }
        let called = self.account()?.called().await?;
        ensure!(!called.is_empty(), "nothing was called");
        let more: Vec<&String> = called.difference(&allowed).collect();
        ensure!(more.is_empty(), "the IAM policy does not allow {more:?}");
        self.step(format!(
            "{} kinds of calls to AWS, all within the IAM policy",
            called.len()
        ));
        Ok(())
    }
}

impl Account {
    /// Everything that exists.
    pub async fn resources(&self) -> Result<BTreeSet<Resource>> {
        let snapshot = self.admin(Method::GET, "snapshot", "").await?;
        serde_json::from_value(snapshot).context("read what exists")
    }

    /// Waits until nothing else exists than `before`.
    pub async fn is_as(&self, before: &BTreeSet<Resource>) -> Result<()> {
        wait::until("the account to be as it was before", || async {
            let now = self.resources().await?;
            let left: Vec<&Resource> = now.difference(before).collect();
            let gone: Vec<&Resource> = before.difference(&now).collect();
            ensure!(
                left.is_empty() && gone.is_empty(),
                "left: {left:?}; gone: {gone:?}"
            );
            Ok(())
        })
        .await
    }

    /// What exists of a kind, with a tag of this value.
    pub async fn tagged(&self, kind: &str, value: &str) -> Result<Vec<Resource>> {
        let mut found: Vec<Resource> = self.resources().await?.into_iter().collect();
        found.retain(|is| is.kind == kind && is.tags.values().any(|tag| tag == value));
        Ok(found)
    }

    /// What AWS says of the targets of a target group.
    pub async fn target_states(&self, arn: &str) -> Result<BTreeSet<TargetState>> {
        let answer = self
            .elb("DescribeTargetHealth", &[("TargetGroupArn", arn)])
            .await?;
        let (ids, states) = (texts(&answer, "Id"), texts(&answer, "State"));
        Ok(ids
            .into_iter()
            .zip(states)
            .map(|(id, state)| TargetState { id, state })
            .collect())
    }

    /// Calls of ELB, as another program of the account makes them; returns the XML.
    pub async fn elb(&self, action: &str, parameters: Parameters<'_>) -> Result<String> {
        let service = ("elasticloadbalancing", "2015-12-01");
        self.call(service, action, parameters).await
    }

    /// [`Account::elb`], of EC2.
    pub async fn ec2(&self, action: &str, parameters: Parameters<'_>) -> Result<String> {
        self.call(("ec2", "2016-11-15"), action, parameters).await
    }

    async fn call(
        &self,
        (service, version): (&str, &str),
        action: &str,
        parameters: Parameters<'_>,
    ) -> Result<String> {
        let mut body = format!("Action={action}&Version={version}");
        for (name, value) in parameters {
            write!(body, "&{name}=")?;
            for byte in value.bytes() {
                write!(body, "%{byte:02X}")?;
            }
        }
        // The stand-in does not look at signatures.
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=other/20260101/{REGION}/{service}/aws4_request, \
             SignedHeaders=host, Signature=0"
        );
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("authorization", authorization.as_str()),
        ];
        let answer = exchange(self.address, Method::POST, "/", &headers, body)
            .await
            .with_context(|| action.to_owned())?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// What was called so far, as IAM names it.
    pub async fn called(&self) -> Result<BTreeSet<String>> {
        let record = self.admin(Method::GET, "calls", "").await?;
        let calls = record["calls"].as_array().context("calls are a list")?;
        Ok(calls
            .iter()
            .filter_map(|call| Some((call["service"].as_str()?, call["action"].as_str()?)))
            .filter_map(|(service, action)| match service {
                "elbv2" => Some(format!("elasticloadbalancing:{action}")),
                "ec2" => Some(format!("ec2:{action}")),
                _ => None,
            })
            .collect())
    }

    /// A call of the admin API, docs/fakeaws.md.
    pub async fn admin(&self, method: Method, path: &str, body: &str) -> Result<Value> {
        let path = format!("/_admin/{path}");
        let answer = exchange(self.address, method, &path, &[], body.to_owned()).await?;
        serde_json::from_slice(&answer).with_context(|| format!("read the answer of {path}"))
    }
}

/// The texts of all elements of a name that have no elements of their own.
pub fn texts(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open)
        .skip(1)
        .filter_map(|rest| rest.split_once(&close))
        .map(|(text, _)| text)
        .filter(|text| !text.contains('<'))
        .map(ToOwned::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_leaves() {
        let xml = "<A><Id>i-1</Id><State><Code>active</Code></State><Id>i-2</Id></A>";
        assert_eq!(texts(xml, "Id"), ["i-1", "i-2"]);
        assert_eq!(texts(xml, "Code"), ["active"]);
        assert!(texts(xml, "State").is_empty());
    }
}
