//! The same against moto, which others wrote: a second opinion on what is sent.
//!
//! It wants a Python with `moto[server,ec2,elbv2]`: `HERALD_MOTO` names its
//! `moto_server`, else it is looked for in `$HERALD_CACHE/moto/bin`. Without it the test
//! says so and is skipped.
//!
//! Where moto differs from AWS (5.2, by number, each found by trying it against both
//! the documentation and botocore's model), and what of it is met here:
//!
//! -  1 ARNs of network load balancers say `app`: nothing reads that part of an ARN.
//! -  2 DNS names have another form: only compared with themselves.
//! -  3 a second load balancer of the same name is made: never asked for here.
//! -  7 a load balancer without groups takes groups: never asked for here.
//! -  8 `SetSubnets` wants two zones: the subnets here are two.
//! - 11 it is active at the first look: so nothing is waited for.
//! - 12 `DescribeTargetGroups` of a load balancer without any is an error: not called so.
//! - 13 a target group names a deleted load balancer: the step that deletes it sets right
//!   what is known.
//! - 14 a target group that is made twice is an error: taken as found, after its tags.
//! - 17 `ModifyListener` refuses UDP and TLS: only TCP here.
//! - 18 listeners of TCP have an SSL policy: not compared for TCP.
//! - 19 target groups have attributes of application load balancers: only those that are
//!   named are compared, so there must be no plan left in the end but for these.
//! - 21 targets are kept by id only: one port for each here.
//! - 22 targets are healthy at once.
//! - 26 `DescribeTags` takes more than 20: 20 are asked for at most.
//! - 28 a security group in use can be deleted: it is deleted last anyway.

mod common;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_credential_types::Credentials;
use common::{absent, budget, node, port, present, reconcile, service, settings, tuning};
use herald_aws::{Aws, Connection, Metrics, Settings};
use herald_provider::{Desired, Outcome, ProviderError};
use tokio::net::TcpStream;
use tokio::time::sleep;

fn moto_server() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("HERALD_MOTO") {
        return Some(path.into());
    }
    let cache = std::env::var_os("HERALD_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/herald")))?;
    let path = cache.join("moto/bin/moto_server");
    path.exists().then_some(path)
}

struct Moto(Child);

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start(program: &PathBuf) -> (Moto, u16) {
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let child = Command::new(program)
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let moto = Moto(child);
    for _ in 0..300 {
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return (moto, port);
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("moto does not listen");
}

/// Calls moto's EC2 by hand: what the cluster would have.
async fn ec2(port: u16, form: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let body = format!("{form}&Version=2016-11-15");
    let request = format!(
        "POST / HTTP/1.1\r\nHost: ec2.us-east-1.amazonaws.com\r\nConnection: close\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/ec2/aws4_request, \
         SignedHeaders=host, Signature=0\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(open) {
        let Some((value, after)) = after.split_once(close) else {
            break;
        };
        found.push(value);
        rest = after;
    }
    found
}

async fn quiet(provider: &Aws, desired: &Desired) -> Outcome {
    for _ in 0..50 {
        match reconcile(provider, desired).await {
            Outcome::Settled(status)
                if status
                    .recheck
                    .is_some_and(|after| after < Duration::from_mins(1)) => {}
            Outcome::Failed(ProviderError::Waiting { recheck, .. }) => {
                sleep(recheck.min(Duration::from_millis(50))).await;
            }
            outcome => return outcome,
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never quiet");
}

#[tokio::test]
async fn moto_agrees_on_create_update_and_delete() {
    let Some(program) = moto_server() else {
        println!(
            "skipped: no moto_server (set HERALD_MOTO, or install moto into $HERALD_CACHE/moto)"
        );
        return;
    };
    let (_moto, moto) = start(&program).await;
    let subnets = ec2(moto, "Action=DescribeSubnets").await;
    let vpc = between(&subnets, "<vpcId>", "</vpcId>")[0].to_owned();
    let images = "Action=RunInstances&ImageId=ami-12c6146b&MinCount=3&MaxCount=3";
    let subnet = between(&subnets, "<subnetId>", "</subnetId>")[0];
    let two = between(&subnets, "<subnetId>", "</subnetId>")[..2].join(",");
    let run = ec2(moto, &format!("{images}&SubnetId={subnet}")).await;
    let instances = between(&run, "<instanceId>", "</instanceId>");
    assert_eq!(instances.len(), 3, "{run}");
    let nodes = |count: usize| {
        (1u16..)
            .zip(&instances[..count])
            .map(|(n, id)| {
                let mut node = node(n);
                node.provider_id = Some(format!("aws:///us-east-1a/{id}"));
                node
            })
            .collect::<Vec<_>>()
    };
    let settings = Settings {
        vpc_id: Some(vpc.clone()),
        cluster_name: None,
        ..settings()
    };
    let connection = Connection::fixed(
        &format!("http://127.0.0.1:{moto}"),
        "us-east-1",
        Credentials::new("x", "y", None, None, "test"),
    );
    let provider = Aws::with(
        settings,
        vpc,
        &connection,
        budget(),
        tuning(),
        Metrics::default(),
    );
    let mut web = service("web");
    web.annotations.insert(
        "service.beta.kubernetes.io/aws-load-balancer-scheme".into(),
        "internet-facing".into(),
    );
    // Its network has no routes to the internet to be found by.
    web.annotations.insert(
        "service.beta.kubernetes.io/aws-load-balancer-subnets".into(),
        two,
    );
    let made = quiet(&provider, &present(web.clone(), nodes(2))).await;
    let Outcome::Settled(status) = made else {
        panic!("{made:?}");
    };
    assert!(status.ready, "{status:?}");
    assert_eq!(status.ingress.len(), 1);
    web.ports.push(port(443, 30_443));
    web.source_ranges = vec!["10.0.0.0/8".into()];
    web.ingress = status.ingress;
    let changed = quiet(&provider, &present(web, nodes(3))).await;
    assert!(
        matches!(&changed, Outcome::Settled(status) if status.ready),
        "{changed:?}"
    );
    let gone = quiet(&provider, &absent("web")).await;
    assert!(matches!(gone, Outcome::Settled(_)), "{gone:?}");
    let groups = ec2(moto, "Action=DescribeSecurityGroups").await;
    assert!(!groups.contains("herald"), "{groups}");
}
