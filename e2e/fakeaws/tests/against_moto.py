#!/usr/bin/env python3
"""The same calls against moto and herald-fakeaws, by boto3.

Two programs that were written apart are asked the same. Where they agree they
must go on agreeing; where they differ, the difference is listed here with the
number it has in docs/fakeaws.md, and both answers are checked, so that a change
of either shows.

    against_moto.py --fake target/debug/herald-fakeaws
"""

import argparse
import logging
import subprocess
import sys
import time
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from moto.server import ThreadedMotoServer


class Backend:
    """One of the two, and what there is to call it about."""

    def __init__(self, name, endpoint, reset):
        self.name = name
        self.endpoint = endpoint
        self.reset_path = reset
        options = dict(
            region_name="us-east-1",
            endpoint_url=endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"max_attempts": 1}),
        )
        self.elb = boto3.client("elbv2", **options)
        self.ec2 = boto3.client("ec2", **options)

    def begin(self):
        """Fresh, with a VPC, two subnets, a group, an instance, an address."""
        request = urllib.request.Request(self.endpoint + self.reset_path, method="POST")
        urllib.request.urlopen(request).read()
        if self.name == "fake":
            self.vpc = "vpc-0000000000000c1a5"
            self.subnets = ["subnet-public-a", "subnet-public-b"]
            self.group = "sg-000000000000000de"
            self.instance = "i-00000000000000001"
            self.allocation = "eipalloc-a"
        else:
            self.vpc = self.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
            subnets = self.ec2.describe_subnets()["Subnets"]
            self.subnets = [subnet["SubnetId"] for subnet in subnets[:2]]
            self.group = self.security_group("nodes")
            run = self.ec2.run_instances(
                ImageId="ami-12c6146b", MinCount=1, MaxCount=1, SubnetId=self.subnets[0]
            )
            self.instance = run["Instances"][0]["InstanceId"]
            self.allocation = self.ec2.allocate_address(Domain="vpc")["AllocationId"]

    def security_group(self, name):
        made = self.ec2.create_security_group(
            GroupName=name, Description="d", VpcId=self.vpc
        )
        return made["GroupId"]

    def load_balancer(self, name="web", subnets=None, **more):
        more.setdefault("Scheme", "internet-facing")
        if "SubnetMappings" not in more:
            more["Subnets"] = subnets or self.subnets
        more = {key: value for key, value in more.items() if value is not None}
        made = self.elb.create_load_balancer(Name=name, Type="network", **more)
        return made["LoadBalancers"][0]

    def target_group(self, name="tg", **more):
        more = {"Protocol": "TCP", "Port": 30080, "VpcId": self.vpc, **more}
        return self.elb.create_target_group(Name=name, **more)["TargetGroups"][0]

    def listener(self, lb, tg, protocol="TCP", port=80, **more):
        made = self.elb.create_listener(
            LoadBalancerArn=lb["LoadBalancerArn"],
            Protocol=protocol,
            Port=port,
            DefaultActions=[{"Type": "forward", "TargetGroupArn": tg["TargetGroupArn"]}],
            **more,
        )
        return made["Listeners"][0]

    def register(self, tg, *targets):
        self.elb.register_targets(TargetGroupArn=tg["TargetGroupArn"], Targets=list(targets))

    def health(self, tg):
        seen = self.elb.describe_target_health(TargetGroupArn=tg["TargetGroupArn"])
        return [d["TargetHealth"]["State"] for d in seen["TargetHealthDescriptions"]]


# Differences: (number in docs/fakeaws.md, what, how to see it, moto, the fake).
DIFFERENCES = []
# Agreements: (what, how to see it).
AGREEMENTS = []


def differs(number, what, moto, fake):
    def add(probe):
        DIFFERENCES.append((number, what, probe, moto, fake))
        return probe

    return add


def agrees(what):
    def add(probe):
        AGREEMENTS.append((what, probe))
        return probe

    return add


@differs(1, "the ARN of a network load balancer", "app", "net")
def _(b):
    return b.load_balancer()["LoadBalancerArn"].split("/")[1]


@differs(2, "its DNS name", "web-1.us-east-1.elb.amazonaws.com", "web-ID.elb.us-east-1.amazonaws.com")
def _(b):
    lb = b.load_balancer()
    return lb["DNSName"].replace(lb["LoadBalancerArn"].split("/")[-1], "ID")


@differs(3, "a second load balancer of that name and other settings", "made", "DuplicateLoadBalancerName")
def _(b):
    b.load_balancer()
    b.load_balancer(Scheme="internal")
    return "made"


@differs(4, "a name with an underscore", "made", "ValidationError")
def _(b):
    b.load_balancer("we_b")
    return "made"


@differs(5, "a security group that is not there, at create", "made", "InvalidSecurityGroup")
def _(b):
    b.load_balancer(SecurityGroups=["sg-00000000000000bad"])
    return "made"


@differs(6, "the scheme, when none is said", "None", "internet-facing")
def _(b):
    return str(b.load_balancer(Scheme=None).get("Scheme"))


@differs(7, "SetSecurityGroups on one made without", "done", "InvalidConfigurationRequest")
def _(b):
    lb = b.load_balancer()
    b.elb.set_security_groups(LoadBalancerArn=lb["LoadBalancerArn"], SecurityGroups=[b.group])
    return "done"


@differs(8, "SetSubnets with one zone", "InvalidConfigurationRequest", "done")
def _(b):
    lb = b.load_balancer()
    b.elb.set_subnets(LoadBalancerArn=lb["LoadBalancerArn"], Subnets=b.subnets[:1])
    return "done"


@differs(9, "an elastic address, asked for and not there", "made", "AllocationIdNotFound")
def _(b):
    mapping = {"SubnetId": b.subnets[0], "AllocationId": "eipalloc-bad"}
    b.load_balancer(SubnetMappings=[mapping])
    return "made"


@differs(10, "deletion with deletion protection", "deleted", "OperationNotPermitted")
def _(b):
    arn = b.load_balancer()["LoadBalancerArn"]
    attribute = {"Key": "deletion_protection.enabled", "Value": "true"}
    b.elb.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=[attribute])
    b.elb.delete_load_balancer(LoadBalancerArn=arn)
    return "deleted"


@differs(11, "the state at the first describe", "active", "provisioning")
def _(b):
    b.load_balancer()
    return b.elb.describe_load_balancers()["LoadBalancers"][0]["State"]["Code"]


@differs(12, "target groups of a load balancer that has none", "TargetGroupNotFound", "0")
def _(b):
    arn = b.load_balancer()["LoadBalancerArn"]
    return str(len(b.elb.describe_target_groups(LoadBalancerArn=arn)["TargetGroups"]))


@differs(13, "LoadBalancerArns of a target group whose load balancer is gone", "1", "0")
def _(b):
    lb, tg = b.load_balancer(), b.target_group()
    b.listener(lb, tg)
    b.elb.delete_load_balancer(LoadBalancerArn=lb["LoadBalancerArn"])
    return str(len(b.elb.describe_target_groups()["TargetGroups"][0]["LoadBalancerArns"]))


@differs(14, "the same target group once more", "DuplicateTargetGroupName", "the same")
def _(b):
    first, second = b.target_group(), b.target_group()
    return "the same" if first["TargetGroupArn"] == second["TargetGroupArn"] else "another"


@differs(15, "a target group with QUIC", "ValidationError", "made")
def _(b):
    b.target_group(Protocol="QUIC")
    return "made"


@differs(16, "a second listener on a port", "made", "DuplicateListener")
def _(b):
    lb = b.load_balancer()
    b.listener(lb, b.target_group("a"))
    b.listener(lb, b.target_group("b"))
    return "made"


@differs(17, "ModifyListener to UDP", "UnsupportedProtocol", "done")
def _(b):
    lb = b.load_balancer()
    listener = b.listener(lb, b.target_group("a", Protocol="TCP_UDP"))
    b.elb.modify_listener(ListenerArn=listener["ListenerArn"], Protocol="UDP", Port=81)
    return "done"


@differs(18, "an SSL policy on a TCP listener; ForwardConfig", "ELBSecurityPolicy-2016-08, False", "None, True")
def _(b):
    listener = b.listener(b.load_balancer(), b.target_group())
    return f"{listener.get('SslPolicy')}, {'ForwardConfig' in listener['DefaultActions'][0]}"


@differs(19, "an attribute that no target group has", "done", "ValidationError")
def _(b):
    attribute = {"Key": "no.such.attribute", "Value": "1"}
    arn = b.target_group()["TargetGroupArn"]
    b.elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=[attribute])
    return "done"


@differs(20, "a deregistration delay of an hour", "ValidationError", "done")
def _(b):
    attribute = {"Key": "deregistration_delay.timeout_seconds", "Value": "3600"}
    arn = b.target_group()["TargetGroupArn"]
    b.elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=[attribute])
    return "done"


@differs(21, "a target on two ports", "1", "2")
def _(b):
    tg = b.target_group()
    b.register(tg, {"Id": b.instance, "Port": 1}, {"Id": b.instance, "Port": 2})
    return str(len(b.health(tg)))


@differs(22, "the health of a target of a new load balancer", "healthy", "initial")
def _(b):
    tg = b.target_group()
    b.listener(b.load_balancer(), tg)
    b.register(tg, {"Id": b.instance})
    return ", ".join(b.health(tg))


@differs(23, "deregistering a target that is not registered", "InvalidTarget", "done")
def _(b):
    arn = b.target_group()["TargetGroupArn"]
    target = {"Id": "i-0000000000000dead"}
    b.elb.deregister_targets(TargetGroupArn=arn, Targets=[target])
    return "done"


@differs(24, "registering an instance that is not there", "done", "InvalidTarget")
def _(b):
    b.register(b.target_group(), {"Id": "i-0000000000000dead"})
    return "done"


@differs(25, "an eleventh tag", "TooManyTags", "done")
def _(b):
    arn = b.load_balancer()["LoadBalancerArn"]
    for count in (10, 11):
        tags = [{"Key": f"k{n}", "Value": "v"} for n in range(count)]
        b.elb.add_tags(ResourceArns=[arn], Tags=tags)
    return "done"


@differs(26, "tags of 21 resources", "described", "ValidationError")
def _(b):
    arn = b.target_group()["TargetGroupArn"]
    b.elb.describe_tags(ResourceArns=[arn] * 21)
    return "described"


@differs(27, "target groups in pages of one", "2", "1")
def _(b):
    b.target_group("a"), b.target_group("b")
    return str(len(b.elb.describe_target_groups(PageSize=1)["TargetGroups"]))


@differs(28, "deleting a security group that a load balancer has", "deleted", "DependencyViolation")
def _(b):
    group = b.security_group("web")
    b.load_balancer(SecurityGroups=[group])
    b.ec2.delete_security_group(GroupId=group)
    return "deleted"


@agrees("a target group in use is not deleted")
def _(b):
    lb, tg = b.load_balancer(), b.target_group()
    b.listener(lb, tg)
    b.elb.delete_target_group(TargetGroupArn=tg["TargetGroupArn"])
    return "deleted"


@agrees("a certificate that is not there")
def _(b):
    certificate = "arn:aws:acm:us-east-1:123456789012:certificate/00000000-0000-0000-0000-00000000dead"
    b.listener(
        b.load_balancer(), b.target_group(), "TLS", 443,
        Certificates=[{"CertificateArn": certificate}],
    )
    return "made"


@agrees("load balancers by a name that none has")
def _(b):
    b.elb.describe_load_balancers(Names=["nobody"])
    return "found"


@agrees("deleting a load balancer twice")
def _(b):
    arn = b.load_balancer()["LoadBalancerArn"]
    b.elb.delete_load_balancer(LoadBalancerArn=arn)
    b.elb.delete_load_balancer(LoadBalancerArn=arn)
    return str(len(b.elb.describe_load_balancers()["LoadBalancers"]))


@agrees("a listener gone with its load balancer")
def _(b):
    lb = b.load_balancer()
    listener = b.listener(lb, b.target_group())["ListenerArn"]
    b.elb.delete_load_balancer(LoadBalancerArn=lb["LoadBalancerArn"])
    b.elb.describe_listeners(ListenerArns=[listener])
    return "found"


@agrees("tags added, replaced and removed")
def _(b):
    arn = b.target_group()["TargetGroupArn"]
    b.elb.add_tags(ResourceArns=[arn], Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "1"}])
    b.elb.add_tags(ResourceArns=[arn], Tags=[{"Key": "a", "Value": "2"}])
    b.elb.remove_tags(ResourceArns=[arn], TagKeys=["b", "c"])
    return str(b.elb.describe_tags(ResourceArns=[arn])["TagDescriptions"][0]["Tags"])


@agrees("the health check of a target group, as it is and as changed")
def _(b):
    arn = b.target_group(HealthCheckProtocol="HTTP", HealthCheckPath="/healthz", HealthCheckPort="10256",
                         HealthCheckIntervalSeconds=10, HealthCheckTimeoutSeconds=5,
                         HealthyThresholdCount=2, UnhealthyThresholdCount=2)["TargetGroupArn"]
    b.elb.modify_target_group(TargetGroupArn=arn, HealthCheckPath="/livez", UnhealthyThresholdCount=3)
    tg = b.elb.describe_target_groups(TargetGroupArns=[arn])["TargetGroups"][0]
    return str({key: value for key, value in sorted(tg.items()) if key.startswith("HealthCheck") or key.endswith("Count")})


@agrees("a security group made twice")
def _(b):
    b.security_group("web"), b.security_group("web")
    return "made"


RULE = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "office"}]}


@agrees("a rule authorized twice")
def _(b):
    group = b.security_group("web")
    b.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[RULE])
    b.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[RULE])
    return "authorized"


@agrees("a rule revoked twice")
def _(b):
    group = b.security_group("web")
    b.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[RULE])
    b.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[RULE])
    b.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[RULE])
    return "revoked"


@agrees("rules as they are described")
def _(b):
    group = b.security_group("web")
    by_group = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": b.group}]}
    b.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[RULE, by_group])
    seen = b.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    return str(sorted(
        (p["IpProtocol"], p.get("FromPort"), p.get("ToPort"), str(p["IpRanges"]),
         [pair["GroupId"] == b.group for pair in p["UserIdGroupPairs"]])
        for p in seen
    ))


@agrees("a security group that is not there")
def _(b):
    b.ec2.delete_security_group(GroupId="sg-00000000000000bad")
    return "deleted"


@agrees("security groups by tag, made with it")
def _(b):
    tags = [{"ResourceType": "security-group", "Tags": [{"Key": "owner", "Value": "herald"}]}]
    b.ec2.create_security_group(GroupName="web", Description="d", VpcId=b.vpc, TagSpecifications=tags)
    filters = [{"Name": "tag:owner", "Values": ["her*"]}, {"Name": "vpc-id", "Values": [b.vpc]}]
    seen = b.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    return str([(g["GroupName"], g["Description"], g["Tags"]) for g in seen])


@agrees("tags of a subnet, found by tag-key")
def _(b):
    b.ec2.create_tags(Resources=[b.subnets[0]], Tags=[{"Key": "k", "Value": "v"}])
    filters = [{"Name": "tag-key", "Values": ["k"]}]
    seen = b.ec2.describe_subnets(Filters=filters)["Subnets"]
    return str([subnet["SubnetId"] == b.subnets[0] for subnet in seen])


@agrees("an instance that is not there")
def _(b):
    b.ec2.describe_instances(InstanceIds=["i-0000000000000dead"])
    return "found"


def ask(backend, probe):
    backend.begin()
    try:
        return probe(backend)
    except ClientError as error:
        return error.response["Error"]["Code"]
    except BotoCoreError as error:
        return type(error).__name__


def start_fake(program):
    """Starts it on a free port; the process and its endpoint."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program, "--listen", f"127.0.0.1:{port}", "--log-format", "text",
         "--target-group-release-time", "0"],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process, f"http://127.0.0.1:{port}"
        time.sleep(0.05)
    sys.exit(f"{program} does not listen on port {port}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fake", required=True, help="the program herald-fakeaws")
    program = parser.parse_args().fake
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    process, endpoint = start_fake(program)
    failures = 0
    try:
        backends = [
            Backend("moto", f"http://{host}:{port}", "/moto-api/reset"),
            Backend("fake", endpoint, "/_admin/reset"),
        ]
        for number, what, probe, *expected in DIFFERENCES:
            seen = [ask(backend, probe) for backend in backends]
            failures += seen != expected
            mark = "differs " if seen == expected else "CHANGED "
            print(f"{mark} {number:2} {what}: moto {seen[0]}, herald-fakeaws {seen[1]}")
            if seen != expected:
                print(f"            listed: moto {expected[0]}, herald-fakeaws {expected[1]}")
        for what, probe in AGREEMENTS:
            seen = [ask(backend, probe) for backend in backends]
            failures += seen[0] != seen[1]
            if seen[0] == seen[1]:
                print(f"agrees      {what}: {seen[0]}")
            else:
                print(f"DISAGREES   {what}: moto {seen[0]}, herald-fakeaws {seen[1]}")
    finally:
        process.terminate()
        process.wait()
        moto.stop()
    print(f"{len(DIFFERENCES)} known differences, {len(AGREEMENTS)} agreements, {failures} surprises")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
