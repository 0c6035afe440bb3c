//! Calls without a socket, and what is needed to look into the answers.
#![allow(dead_code)]

use std::time::Duration;

use herald_fakeaws::fixtures::{NODE_GROUP, VPC};
use herald_fakeaws::{Config, Cut, FakeAws, Service};
use http::Request;
use hyper::body::Bytes;

/// A fake that is called directly.
pub struct Api(pub FakeAws);

/// An answer: its status and its XML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub xml: String,
}

impl Answer {
    /// The text of the first element of that name; empty if there is none.
    pub fn text(&self, name: &str) -> String {
        self.texts(name).into_iter().next().unwrap_or_default()
    }

    /// The texts of all elements of that name.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        self.xml
            .split(&open)
            .skip(1)
            .map(|rest| rest.split(&close).next().unwrap().to_owned())
            .collect()
    }

    /// The error's code; empty for a success.
    pub fn code(&self) -> String {
        self.text("Code")
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{}", self.xml);
        self
    }

    #[track_caller]
    pub fn refused(self, code: &str) -> Self {
        assert!(self.status >= 400, "not refused: {}", self.xml);
        assert_eq!(self.text("Code"), code, "{}", self.xml);
        self
    }
}

/// A request as an SDK would send it.
pub fn request(service: Service, action: &str, parameters: &[(&str, &str)]) -> Request<Bytes> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("Action", action);
    form.append_pair("Version", service.version());
    form.extend_pairs(parameters);
    let scope = service.scope();
    Request::post("/")
        .header(
            "authorization",
            format!("AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{scope}/aws4_request, SignedHeaders=host, Signature=00"),
        )
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::from(form.finish()))
        .unwrap()
}

impl Api {
    pub fn new(config: Config) -> Self {
        Self(FakeAws::detached(config))
    }

    /// No time passes, nothing takes time.
    pub fn quick() -> Self {
        Self::new(Config::quick())
    }

    pub async fn try_call(
        &self,
        service: Service,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Answer, Cut> {
        let response = self.0.handle(request(service, action, parameters)).await?;
        Ok(Answer {
            status: response.status().as_u16(),
            xml: String::from_utf8(response.body().to_vec()).unwrap(),
        })
    }

    pub async fn elb(&self, action: &str, parameters: &[(&str, &str)]) -> Answer {
        self.try_call(Service::Elbv2, action, parameters)
            .await
            .unwrap()
    }

    pub async fn ec2(&self, action: &str, parameters: &[(&str, &str)]) -> Answer {
        self.try_call(Service::Ec2, action, parameters)
            .await
            .unwrap()
    }

    pub fn advance(&self, seconds: u64) {
        self.0.advance(Duration::from_secs(seconds));
    }

    /// A load balancer in public subnet a with the nodes' security group; its ARN.
    pub async fn load_balancer(&self, name: &str) -> String {
        self.load_balancer_with(name, &[("SecurityGroups.member.1", NODE_GROUP)])
            .await
    }

    pub async fn load_balancer_with(&self, name: &str, more: &[(&str, &str)]) -> String {
        let mut parameters = vec![
            ("Name", name),
            ("Type", "network"),
            ("Subnets.member.1", "subnet-public-a"),
        ];
        parameters.extend(more);
        self.elb("CreateLoadBalancer", &parameters)
            .await
            .ok()
            .text("LoadBalancerArn")
    }

    /// A target group of instances on port 30080; its ARN.
    pub async fn target_group(&self, name: &str, protocol: &str) -> String {
        self.target_group_with(name, protocol, &[]).await
    }

    pub async fn target_group_with(
        &self,
        name: &str,
        protocol: &str,
        more: &[(&str, &str)],
    ) -> String {
        let mut parameters = vec![
            ("Name", name),
            ("Protocol", protocol),
            ("Port", "30080"),
            ("VpcId", VPC),
        ];
        parameters.extend(more);
        self.elb("CreateTargetGroup", &parameters)
            .await
            .ok()
            .text("TargetGroupArn")
    }

    /// A listener; its answer.
    pub async fn listener(&self, lb: &str, protocol: &str, port: &str, group: &str) -> Answer {
        self.elb(
            "CreateListener",
            &[
                ("LoadBalancerArn", lb),
                ("Protocol", protocol),
                ("Port", port),
                ("DefaultActions.member.1.Type", "forward"),
                ("DefaultActions.member.1.TargetGroupArn", group),
            ],
        )
        .await
    }

    pub async fn register(&self, group: &str, target: &str) -> Answer {
        self.elb(
            "RegisterTargets",
            &[("TargetGroupArn", group), ("Targets.member.1.Id", target)],
        )
        .await
    }

    pub async fn deregister(&self, group: &str, target: &str) -> Answer {
        self.elb(
            "DeregisterTargets",
            &[("TargetGroupArn", group), ("Targets.member.1.Id", target)],
        )
        .await
    }

    /// States of all targets of a group.
    pub async fn health(&self, group: &str) -> Vec<String> {
        self.elb("DescribeTargetHealth", &[("TargetGroupArn", group)])
            .await
            .ok()
            .texts("State")
    }
}
