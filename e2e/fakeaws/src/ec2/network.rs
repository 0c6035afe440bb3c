//! VPCs, subnets, zones, route tables, elastic addresses, prefix lists.

use super::query::{Fact, Paging, Query, tag_fact, write_tags};
use crate::actions::Context;
use crate::error::ApiError;
use crate::model::{ElasticAddress, PrefixList, Region, RouteTable, Subnet, Vpc, Zone};
use crate::params::Params;
use crate::xml::Xml;

type Done = Result<(), ApiError>;

/// `DescribeVpcs`.
pub fn vpcs(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let query = Query::read(p, "VpcId", Some(Paging::USUAL))?;
    p.finish()?;
    let fact = |vpc: &Vpc, filter: &str| match filter {
        "vpc-id" => Fact::one(&vpc.id),
        "cidr" | "cidr-block" | "cidrBlock" => Fact::one(&vpc.cidrs[0]),
        "cidr-block-association.cidr-block" => Fact::all(&vpc.cidrs),
        "ipv6-cidr-block-association.ipv6-cidr-block" => Fact::all(&vpc.ipv6_cidr),
        "state" => Fact::one(&"available"),
        "isDefault" | "is-default" => Fact::one(&false),
        "owner-id" => Fact::one(&region.account),
        _ => tag_fact(&vpc.tags, filter),
    };
    query
        .page(
            region.vpcs.values(),
            |vpc| &vpc.id,
            ("InvalidVpcID.NotFound", "vpc"),
            fact,
        )?
        .write(xml, "vpcSet", |x, vpc| {
            x.text("vpcId", &vpc.id)
                .text("ownerId", &region.account)
                .text("state", "available")
                .text("cidrBlock", vpc.cidrs[0])
                .text("instanceTenancy", "default")
                .text("isDefault", false)
                .items(
                    "cidrBlockAssociationSet",
                    vpc.cidrs.iter().enumerate(),
                    |x, (n, cidr)| {
                        x.text("cidrBlock", cidr)
                            .text("associationId", format!("vpc-cidr-assoc-{n}"));
                        associated(x, "cidrBlockState");
                    },
                )
                .items("ipv6CidrBlockAssociationSet", vpc.ipv6_cidr, |x, cidr| {
                    x.text("ipv6CidrBlock", cidr)
                        .text("associationId", "vpc-cidr-assoc-6");
                    associated(x, "ipv6CidrBlockState");
                });
            write_tags(x, &vpc.tags);
        });
    Ok(())
}

fn associated(xml: &mut Xml, name: &str) {
    xml.node(name, |x| {
        x.text("state", "associated");
    });
}

/// `DescribeSubnets`.
pub fn subnets(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let query = Query::read(p, "SubnetId", Some(Paging::USUAL))?;
    p.finish()?;
    let zone_id = |subnet: &Subnet| region.zones.get(&subnet.zone).map(|zone| zone.id.clone());
    let fact = |subnet: &Subnet, filter: &str| match filter {
        "subnet-id" => Fact::one(&subnet.id),
        "vpc-id" => Fact::one(&subnet.vpc),
        "availability-zone" | "availabilityZone" => Fact::one(&subnet.zone),
        "availability-zone-id" | "availabilityZoneId" => Fact::all(&zone_id(subnet)),
        "cidr" | "cidr-block" | "cidrBlock" => Fact::one(&subnet.cidr),
        "ipv6-cidr-block-association.ipv6-cidr-block" => Fact::all(&subnet.ipv6_cidr),
        "map-public-ip-on-launch" => Fact::one(&subnet.map_public_ip),
        "available-ip-address-count" => Fact::one(&region.addresses_left(subnet)),
        "state" => Fact::one(&"available"),
        "default-for-az" | "defaultForAz" => Fact::one(&false),
        "owner-id" => Fact::one(&region.account),
        _ => tag_fact(&subnet.tags, filter),
    };
    query
        .page(
            region.subnets.values(),
            |subnet| &subnet.id,
            ("InvalidSubnetID.NotFound", "subnet"),
            fact,
        )?
        .write(xml, "subnetSet", |x, subnet| {
            let arn = format!(
                "arn:aws:ec2:{}:{}:subnet/{}",
                region.name, region.account, subnet.id
            );
            x.text("subnetId", &subnet.id)
                .text("subnetArn", arn)
                .text("state", "available")
                .text("ownerId", &region.account)
                .text("vpcId", &subnet.vpc)
                .text("cidrBlock", subnet.cidr)
                .items(
                    "ipv6CidrBlockAssociationSet",
                    subnet.ipv6_cidr,
                    |x, cidr| {
                        x.text("ipv6CidrBlock", cidr)
                            .text("associationId", "subnet-cidr-assoc-6");
                        associated(x, "ipv6CidrBlockState");
                    },
                )
                .text("availableIpAddressCount", region.addresses_left(subnet))
                .text("availabilityZone", &subnet.zone)
                .maybe("availabilityZoneId", zone_id(subnet))
                .text("defaultForAz", false)
                .text("mapPublicIpOnLaunch", subnet.map_public_ip)
                .text("assignIpv6AddressOnCreation", false)
                .text("ipv6Native", false);
            write_tags(x, &subnet.tags);
        });
    Ok(())
}

/// `DescribeAvailabilityZones`.
pub fn zones(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let query = Query::read(p, "ZoneName", None)?;
    let ids = p.texts("ZoneId");
    let all: Option<bool> = p.read("AllAvailabilityZones")?;
    p.finish()?;
    if let Some(missing) = ids
        .iter()
        .find(|id| !region.zones.values().any(|zone| zone.id == **id))
    {
        return Err(ApiError::value(format!(
            "Invalid availability zone-id: [{missing}]"
        )));
    }
    // There are no zones that an account has not opted in to.
    let _ = all;
    let fact = |zone: &Zone, filter: &str| match filter {
        "zone-name" => Fact::one(&zone.name),
        "zone-id" => Fact::one(&zone.id),
        "zone-type" => Fact::one(&zone.zone_type),
        "region-name" | "group-name" => Fact::one(&region.name),
        "state" => Fact::one(&"available"),
        "opt-in-status" => Fact::one(&"opt-in-not-required"),
        _ => Fact::Unknown,
    };
    let chosen = region
        .zones
        .values()
        .filter(|zone| ids.is_empty() || ids.contains(&zone.id));
    query
        .page(
            chosen,
            |zone| &zone.name,
            ("InvalidParameterValue", "availability zone"),
            fact,
        )?
        .write(xml, "availabilityZoneInfo", |x, zone| {
            x.text("zoneName", &zone.name)
                .text("zoneState", "available")
                .text("regionName", &region.name)
                .text("zoneId", &zone.id)
                .text("zoneType", &zone.zone_type)
                .text("groupName", &region.name)
                .text("optInStatus", "opt-in-not-required");
        });
    Ok(())
}

/// `DescribeRouteTables`.
pub fn route_tables(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let query = Query::read(p, "RouteTableId", Some(Paging { min: 5, max: 100 }))?;
    p.finish()?;
    let fact = |table: &RouteTable, filter: &str| match filter {
        "route-table-id" | "association.route-table-id" => Fact::one(&table.id),
        "vpc-id" => Fact::one(&table.vpc),
        "association.main" => Fact::all(
            &associations(table)
                .map(|(_, main, _)| main)
                .collect::<Vec<_>>(),
        ),
        "association.subnet-id" => Fact::all(&table.subnets),
        "route.gateway-id" => Fact::all(
            &[Some("local".to_owned()), via(table, "igw-")]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>(),
        ),
        "route.nat-gateway-id" => Fact::all(&via(table, "nat-")),
        "owner-id" => Fact::one(&region.account),
        _ => tag_fact(&table.tags, filter),
    };
    query
        .page(
            region.route_tables.values(),
            |table| &table.id,
            ("InvalidRouteTableID.NotFound", "routeTable"),
            fact,
        )?
        .write(xml, "routeTableSet", |x, table| {
            x.text("routeTableId", &table.id)
                .text("vpcId", &table.vpc)
                .text("ownerId", &region.account)
                .items("routeSet", routes(region, table), |x, (to, via)| {
                    let field = if via.starts_with("nat-") {
                        "natGatewayId"
                    } else {
                        "gatewayId"
                    };
                    x.text("destinationCidrBlock", to)
                        .text(field, via)
                        .text("state", "active")
                        .text("origin", "CreateRoute");
                })
                .items(
                    "associationSet",
                    associations(table),
                    |x, (id, main, subnet)| {
                        x.text("routeTableAssociationId", id)
                            .text("routeTableId", &table.id)
                            .maybe("subnetId", subnet)
                            .text("main", main);
                        associated(x, "associationState");
                    },
                );
            write_tags(x, &table.tags);
        });
    Ok(())
}

/// The default route, if it goes through a gateway of that kind.
fn via(table: &RouteTable, kind: &str) -> Option<String> {
    table
        .default_route
        .clone()
        .filter(|gateway| gateway.starts_with(kind))
}

/// Where a table sends what.
fn routes(region: &Region, table: &RouteTable) -> Vec<(String, String)> {
    let local = region.vpcs.get(&table.vpc).into_iter().flat_map(|vpc| {
        vpc.cidrs
            .iter()
            .map(|cidr| (cidr.to_string(), "local".to_owned()))
    });
    let default = table
        .default_route
        .iter()
        .map(|via| ("0.0.0.0/0".to_owned(), via.clone()));
    local.chain(default).collect()
}

/// Id, whether it is the main one, subnet.
fn associations(table: &RouteTable) -> impl Iterator<Item = (String, bool, Option<&String>)> {
    let name = table.id.trim_start_matches("rtb-");
    let main = table.main.then(|| (format!("rtbassoc-{name}"), true, None));
    let subnets = table
        .subnets
        .iter()
        .map(move |subnet| (format!("rtbassoc-{name}-{subnet}"), false, Some(subnet)));
    main.into_iter().chain(subnets)
}

/// `DescribeAddresses`.
pub fn addresses(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let query = Query::read(p, "AllocationId", None)?;
    let ips = p.texts("PublicIp");
    p.finish()?;
    if let Some(missing) = ips.iter().find(|ip| {
        !region
            .addresses
            .values()
            .any(|a| a.address.to_string() == **ip)
    }) {
        return Err(ApiError::new(
            "InvalidAddress.NotFound",
            format!("Address '{missing}' not found."),
        ));
    }
    let interface_of = |a: &ElasticAddress| {
        a.interface
            .as_ref()
            .and_then(|id| region.interfaces.get(id))
            .cloned()
    };
    let fact = |address: &ElasticAddress, filter: &str| match filter {
        "allocation-id" => Fact::one(&address.allocation),
        "public-ip" => Fact::one(&address.address),
        "domain" => Fact::one(&"vpc"),
        "network-interface-id" => Fact::all(&address.interface),
        "association-id" => Fact::all(&address.interface.as_ref().map(|_| association(address))),

        "instance-id" => Fact::all(&interface_of(address).and_then(|i| i.instance)),
        _ => tag_fact(&address.tags, filter),
    };
    let chosen = region
        .addresses
        .values()
        .filter(|a| ips.is_empty() || ips.contains(&a.address.to_string()));
    query
        .page(
            chosen,
            |address| &address.allocation,
            ("InvalidAllocationID.NotFound", "allocation"),
            fact,
        )?
        .write(xml, "addressesSet", |x, address| {
            x.text("publicIp", address.address)
                .text("allocationId", &address.allocation)
                .text("domain", "vpc")
                .text("publicIpv4Pool", "amazon")
                .text("networkBorderGroup", &region.name);
            if let Some(interface) = interface_of(address) {
                x.text("associationId", association(address))
                    .text("networkInterfaceId", &interface.id)
                    .text("networkInterfaceOwnerId", &region.account)
                    .maybe("privateIpAddress", interface.addresses.first())
                    .maybe("instanceId", interface.instance.as_deref());
            }
            write_tags(x, &address.tags);
        });
    Ok(())
}

fn association(address: &ElasticAddress) -> String {
    format!(
        "eipassoc-{}",
        address.allocation.trim_start_matches("eipalloc-")
    )
}

/// `DescribeManagedPrefixLists`.
pub fn prefix_lists(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let query = Query::read(p, "PrefixListId", Some(Paging { min: 1, max: 100 }))?;
    p.finish()?;
    let fact = |list: &PrefixList, filter: &str| match filter {
        "prefix-list-id" => Fact::one(&list.id),
        "prefix-list-name" => Fact::one(&list.name),
        "owner-id" => Fact::one(&region.account),
        _ => Fact::Unknown,
    };
    query
        .page(
            region.prefix_lists.values(),
            |list| &list.id,
            ("InvalidPrefixListID.NotFound", "prefix list"),
            fact,
        )?
        .write(xml, "prefixListSet", |x, list| {
            let arn = format!(
                "arn:aws:ec2:{}:{}:prefix-list/{}",
                region.name, region.account, list.id
            );
            x.text("prefixListId", &list.id)
                .text("prefixListName", &list.name)
                .text("prefixListArn", arn)
                .text("addressFamily", &list.family)
                .text("maxEntries", list.max_entries)
                .text("version", 1)
                .text("state", "create-complete")
                .text("ownerId", &region.account);
            write_tags(x, &list.tags);
        });
    Ok(())
}
