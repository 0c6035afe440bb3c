//! VPCs, subnets, zones, route tables, elastic addresses, prefix lists.

use super::query::{Paging, Query, tag_fact, write_tags};
use crate::actions::Context;
use crate::error::ApiError;
use crate::model::{ElasticAddress, PrefixList, Region, RouteTable, Subnet, Vpc, Zone};
use crate::params::Params;
use crate::xml::Xml;

type Done = Result<(), ApiError>;

fn one(value: impl ToString) -> Option<Vec<String>> {
    Some(vec![value.to_string()])
}

/// `DescribeVpcs`.
pub fn vpcs(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let query = Query::read(p, "VpcId", Some(Paging::USUAL))?;
    p.finish()?;
    let fact = |vpc: &Vpc, filter: &str| match filter {
        "vpc-id" => one(&vpc.id),
        "cidr" | "cidr-block" | "cidrBlock" => one(vpc.cidrs[0]),
        "cidr-block-association.cidr-block" => {
            Some(vpc.cidrs.iter().map(ToString::to_string).collect())
        }
        "ipv6-cidr-block-association.ipv6-cidr-block" => {
            Some(vpc.ipv6_cidr.iter().map(ToString::to_string).collect())
        }
        "state" => one("available"),
        "isDefault" | "is-default" => one(false),
        "owner-id" => one(&region.account),
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
        "subnet-id" => one(&subnet.id),
        "vpc-id" => one(&subnet.vpc),
        "availability-zone" | "availabilityZone" => one(&subnet.zone),
        "availability-zone-id" | "availabilityZoneId" => {
            Some(zone_id(subnet).into_iter().collect())
        }
        "cidr" | "cidr-block" | "cidrBlock" => one(subnet.cidr),
        "ipv6-cidr-block-association.ipv6-cidr-block" => {
            Some(subnet.ipv6_cidr.iter().map(ToString::to_string).collect())
        }
        "map-public-ip-on-launch" => one(subnet.map_public_ip),
        "available-ip-address-count" => one(region.addresses_left(subnet)),
        "state" => one("available"),
        "default-for-az" | "defaultForAz" => one(false),
        "owner-id" => one(&region.account),
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
        "zone-name" => one(&zone.name),
        "zone-id" => one(&zone.id),
        "zone-type" => one(&zone.zone_type),
        "region-name" | "group-name" => one(&region.name),
        "state" => one("available"),
        "opt-in-status" => one("opt-in-not-required"),
        _ => None,
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
        "route-table-id" | "association.route-table-id" => one(&table.id),
        "vpc-id" => one(&table.vpc),
        "association.main" => Some(
            associations(table)
                .map(|(_, main, _)| main.to_string())
                .collect(),
        ),
        "association.subnet-id" => Some(table.subnets.clone()),
        "route.gateway-id" => Some(
            std::iter::once("local".to_owned())
                .chain(
                    table
                        .default_route
                        .iter()
                        .filter(|to| to.starts_with("igw-"))
                        .cloned(),
                )
                .collect(),
        ),
        "route.nat-gateway-id" => Some(
            table
                .default_route
                .iter()
                .filter(|to| to.starts_with("nat-"))
                .cloned()
                .collect(),
        ),
        "owner-id" => one(&region.account),
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
        "allocation-id" => one(&address.allocation),
        "public-ip" => one(address.address),
        "domain" => one("vpc"),
        "network-interface-id" => Some(address.interface.iter().cloned().collect()),
        "association-id" => Some(
            address
                .interface
                .iter()
                .map(|_| association(address))
                .collect(),
        ),
        "instance-id" => Some(
            interface_of(address)
                .and_then(|i| i.instance)
                .into_iter()
                .collect(),
        ),
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
        "prefix-list-id" => one(&list.id),
        "prefix-list-name" => one(&list.name),
        "owner-id" => one(&region.account),
        _ => None,
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
