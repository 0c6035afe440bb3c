//! Every action of AWS's APIs that the provider calls, and no other: the client
//! takes its calls from this list, and the IAM policy is made from it.

use std::fmt;

/// Which of AWS's APIs an action is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Api {
    /// Elastic Load Balancing v2.
    Elbv2,
    /// EC2.
    Ec2,
}

impl Api {
    /// Its prefix in IAM policies.
    pub const fn iam_prefix(self) -> &'static str {
        match self {
            Self::Elbv2 => "elasticloadbalancing",
            Self::Ec2 => "ec2",
        }
    }
}

/// On what an action is allowed, which decides its place in the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Grant {
    /// Reads; AWS takes neither resource nor condition for most of them.
    Read,
    /// Makes an object that bears Herald's tag from the start.
    Create(Resource),
    /// Changes or deletes objects that bear Herald's tag.
    Owned(&'static [Resource]),
    /// Adds tags: to what is being made, and to what is Herald's already.
    Tag,
    /// Changes rules of security groups: Herald's own and those of the nodes.
    GroupRules,
}

/// Kinds of objects in AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// A Network Load Balancer.
    LoadBalancer,
    /// A listener of one.
    Listener,
    /// A target group.
    TargetGroup,
    /// A security group.
    SecurityGroup,
}

impl Resource {
    /// Its ARNs in any region and account of the partition.
    pub fn arn(self, partition: &str) -> String {
        let kind = match self {
            Self::LoadBalancer => "elasticloadbalancing:*:*:loadbalancer/net/*/*",
            Self::Listener => "elasticloadbalancing:*:*:listener/net/*/*/*",
            Self::TargetGroup => "elasticloadbalancing:*:*:targetgroup/*/*",
            Self::SecurityGroup => "ec2:*:*:security-group/*",
        };
        format!("arn:{partition}:{kind}")
    }
}

macro_rules! actions {
    ($($api:ident $name:ident $grant:expr;)+) => {
        /// An action of one of AWS's APIs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "they are AWS's names")]
        pub enum Action {
            $($name,)+
        }

        impl Action {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name in AWS's API.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// Which API it is of.
            pub const fn api(self) -> Api {
                match self {
                    $(Self::$name => Api::$api,)+
                }
            }

            /// On what it is allowed.
            pub const fn grant(self) -> Grant {
                match self {
                    $(Self::$name => $grant,)+
                }
            }
        }
    };
}

use Resource::{Listener, LoadBalancer, SecurityGroup, TargetGroup};

actions! {
    Elbv2 DescribeLoadBalancers Grant::Read;
    Elbv2 DescribeLoadBalancerAttributes Grant::Read;
    Elbv2 DescribeCapacityReservation Grant::Read;
    Elbv2 DescribeListeners Grant::Read;
    Elbv2 DescribeListenerAttributes Grant::Read;
    Elbv2 DescribeListenerCertificates Grant::Read;
    Elbv2 DescribeTargetGroups Grant::Read;
    Elbv2 DescribeTargetGroupAttributes Grant::Read;
    Elbv2 DescribeTargetHealth Grant::Read;
    Elbv2 DescribeTags Grant::Read;
    Elbv2 CreateLoadBalancer Grant::Create(LoadBalancer);
    Elbv2 ModifyLoadBalancerAttributes Grant::Owned(&[LoadBalancer]);
    Elbv2 ModifyCapacityReservation Grant::Owned(&[LoadBalancer]);
    Elbv2 SetIpAddressType Grant::Owned(&[LoadBalancer]);
    Elbv2 SetSecurityGroups Grant::Owned(&[LoadBalancer]);
    Elbv2 SetSubnets Grant::Owned(&[LoadBalancer]);
    Elbv2 DeleteLoadBalancer Grant::Owned(&[LoadBalancer]);
    Elbv2 CreateListener Grant::Owned(&[LoadBalancer]);
    Elbv2 ModifyListener Grant::Owned(&[Listener]);
    Elbv2 ModifyListenerAttributes Grant::Owned(&[Listener]);
    Elbv2 AddListenerCertificates Grant::Owned(&[Listener]);
    Elbv2 RemoveListenerCertificates Grant::Owned(&[Listener]);
    Elbv2 DeleteListener Grant::Owned(&[Listener]);
    Elbv2 CreateTargetGroup Grant::Create(TargetGroup);
    Elbv2 ModifyTargetGroup Grant::Owned(&[TargetGroup]);
    Elbv2 ModifyTargetGroupAttributes Grant::Owned(&[TargetGroup]);
    Elbv2 DeleteTargetGroup Grant::Owned(&[TargetGroup]);
    Elbv2 RegisterTargets Grant::Owned(&[TargetGroup]);
    Elbv2 DeregisterTargets Grant::Owned(&[TargetGroup]);
    Elbv2 AddTags Grant::Tag;
    Elbv2 RemoveTags Grant::Owned(&[LoadBalancer, Listener, TargetGroup]);
    Ec2 DescribeVpcs Grant::Read;
    Ec2 DescribeSubnets Grant::Read;
    Ec2 DescribeRouteTables Grant::Read;
    Ec2 DescribeAvailabilityZones Grant::Read;
    Ec2 DescribeSecurityGroups Grant::Read;
    Ec2 DescribeInstances Grant::Read;
    Ec2 CreateSecurityGroup Grant::Create(SecurityGroup);
    Ec2 AuthorizeSecurityGroupIngress Grant::GroupRules;
    Ec2 RevokeSecurityGroupIngress Grant::GroupRules;
    Ec2 DeleteSecurityGroup Grant::Owned(&[SecurityGroup]);
    Ec2 CreateTags Grant::Tag;
    Ec2 DeleteTags Grant::Owned(&[SecurityGroup]);
}

impl Action {
    /// Whether it changes nothing.
    pub const fn is_read(self) -> bool {
        matches!(self.grant(), Grant::Read)
    }

    /// As IAM policies write it: `ec2:DescribeSubnets`.
    pub fn iam(self) -> String {
        format!("{}:{}", self.api().iam_prefix(), self.name())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
