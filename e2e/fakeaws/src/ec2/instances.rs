//! Instances and network interfaces.

use super::query::{Fact, Paging, Query, tag_fact, write_tags};
use crate::actions::Context;
use crate::error::ApiError;
use crate::model::{Instance, Interface, Region, Tags};
use crate::params::Params;
use crate::xml::Xml;

type Done = Result<(), ApiError>;

/// `DescribeInstances`. Each instance is a reservation of its own.
pub fn instances(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let query = Query::read(p, "InstanceId", Some(Paging::USUAL))?;
    p.finish()?;
    let subnet_of = |instance: &Instance| region.subnets.get(&instance.subnet);
    let fact = |instance: &Instance, filter: &str| match filter {
        "instance-id" => Fact::one(&instance.id),
        "instance-state-name" => Fact::one(&instance.state.name()),
        "instance-state-code" => Fact::one(&instance.state.code()),
        "vpc-id" => Fact::all(subnet_of(instance).map(|s| &s.vpc)),
        "subnet-id" | "network-interface.subnet-id" => Fact::one(&instance.subnet),
        "availability-zone" => Fact::all(subnet_of(instance).map(|s| &s.zone)),
        "private-ip-address" | "network-interface.addresses.private-ip-address" => {
            Fact::one(&instance.address)
        }
        "private-dns-name" => Fact::one(&private_name(region, instance)),
        "instance.group-id" | "network-interface.group-id" => Fact::all(&instance.security_groups),
        _ => tag_fact(&instance.tags, filter),
    };
    let page = query.page(
        region.instances.values(),
        |instance| &instance.id,
        ("InvalidInstanceID.NotFound", "instance"),
        fact,
    )?;
    page.write(xml, "reservationSet", |x, instance| {
        x.text(
            "reservationId",
            format!("r-{}", instance.id.trim_start_matches("i-")),
        )
        .text("ownerId", &region.account)
        .items("groupSet", None::<&str>, |_, _| {})
        .items("instancesSet", [instance], |x, instance| {
            write_instance(x, region, instance);
        });
    });
    Ok(())
}

fn write_instance(xml: &mut Xml, region: &Region, instance: &Instance) {
    let subnet = region.subnets.get(&instance.subnet);
    xml.text("instanceId", &instance.id)
        .text("imageId", "ami-0000000000000000a")
        .node("instanceState", |x| {
            x.text("code", instance.state.code())
                .text("name", instance.state.name());
        })
        .text("privateDnsName", private_name(region, instance))
        .text("instanceType", "m7g.large")
        .node("placement", |x| {
            x.maybe("availabilityZone", subnet.map(|s| &s.zone))
                .text("tenancy", "default");
        })
        .text("subnetId", &instance.subnet)
        .maybe("vpcId", subnet.map(|s| &s.vpc))
        .text("privateIpAddress", instance.address)
        .maybe("ipv6Address", instance.ipv6);
    write_groups(xml, region, &instance.security_groups);
    let attached: Vec<&Interface> = region
        .interfaces
        .values()
        .filter(|interface| interface.instance.as_ref() == Some(&instance.id))
        .collect();
    xml.items("networkInterfaceSet", attached, |x, interface| {
        write_interface(x, region, interface);
    });
    write_tags(xml, &instance.tags);
}

fn private_name(region: &Region, instance: &Instance) -> String {
    let dashed = instance.address.to_string().replace('.', "-");
    if region.name == "us-east-1" {
        format!("ip-{dashed}.ec2.internal")
    } else {
        format!("ip-{dashed}.{}.compute.internal", region.name)
    }
}

fn write_groups(xml: &mut Xml, region: &Region, groups: &[String]) {
    xml.items("groupSet", groups, |x, id| {
        x.text("groupId", id).maybe(
            "groupName",
            region.security_groups.get(id).map(|group| &group.name),
        );
    });
}

/// `DescribeNetworkInterfaces`.
pub fn interfaces(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let query = Query::read(p, "NetworkInterfaceId", Some(Paging::USUAL))?;
    p.finish()?;
    let subnet_of = |interface: &Interface| region.subnets.get(&interface.subnet);
    let fact = |interface: &Interface, filter: &str| match filter {
        "network-interface-id" => Fact::one(&interface.id),
        "description" => Fact::one(&interface.description),
        "group-id" => Fact::all(&interface.security_groups),
        "subnet-id" => Fact::one(&interface.subnet),
        "vpc-id" => Fact::all(subnet_of(interface).map(|s| &s.vpc)),
        "availability-zone" => Fact::all(subnet_of(interface).map(|s| &s.zone)),
        "attachment.instance-id" => Fact::all(&interface.instance),
        "private-ip-address" => Fact::all(interface.addresses.first()),
        "addresses.private-ip-address" => Fact::all(&interface.addresses),
        "interface-type" => Fact::one(&interface_type(interface)),
        "requester-managed" => Fact::one(&interface.load_balancer.is_some()),
        "status" | "attachment.status" => Fact::one(&status(interface)),
        // Interfaces have no tags here.
        _ => tag_fact(&Tags::new(), filter),
    };
    query
        .page(
            region.interfaces.values(),
            |interface| &interface.id,
            ("InvalidNetworkInterfaceID.NotFound", "networkInterface"),
            fact,
        )?
        .write(xml, "networkInterfaceSet", |x, interface| {
            write_interface(x, region, interface);
        });
    Ok(())
}

const fn interface_type(interface: &Interface) -> &'static str {
    if interface.load_balancer.is_some() {
        "network_load_balancer"
    } else {
        "interface"
    }
}

const fn status(_: &Interface) -> &'static str {
    "in-use"
}

fn write_interface(xml: &mut Xml, region: &Region, interface: &Interface) {
    let subnet = region.subnets.get(&interface.subnet);
    xml.text("networkInterfaceId", &interface.id)
        .text("subnetId", &interface.subnet)
        .maybe("vpcId", subnet.map(|s| &s.vpc))
        .maybe("availabilityZone", subnet.map(|s| &s.zone))
        .text("description", &interface.description)
        .text("ownerId", &region.account)
        .text("requesterManaged", interface.load_balancer.is_some())
        .text("status", status(interface))
        .maybe("privateIpAddress", interface.addresses.first())
        .text("interfaceType", interface_type(interface));
    write_groups(xml, region, &interface.security_groups);
    xml.node("attachment", |x| {
        x.text(
            "attachmentId",
            format!("eni-attach-{}", interface.id.trim_start_matches("eni-")),
        )
        .maybe("instanceId", interface.instance.as_deref())
        .text("deviceIndex", u8::from(interface.instance.is_none()))
        .text("status", "attached");
    })
    .items(
        "privateIpAddressesSet",
        interface.addresses.iter().enumerate(),
        |x, (n, address)| {
            x.text("privateIpAddress", address).text("primary", n == 0);
        },
    )
    .items("ipv6AddressesSet", interface.ipv6, |x, address| {
        x.text("ipv6Address", address);
    })
    .items("tagSet", None::<&str>, |_, _| {});
}
