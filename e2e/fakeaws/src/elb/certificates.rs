//! Certificates of TLS listeners besides the default one.

use std::collections::BTreeSet;

use super::common::{Done, Paging, listener, listener_mut};
use crate::actions::Context;
use crate::error::ApiError;
use crate::model::{Certificate, Listener, Region};
use crate::params::Params;
use crate::xml::Xml;

/// Reads `Certificates.member.N.CertificateArn`; every one must exist.
pub fn read(p: &Params<'_>, region: &Region) -> Result<Vec<Certificate>, ApiError> {
    let mut certificates = Vec::new();
    for certificate in p.list("Certificates") {
        let arn = certificate.required("CertificateArn")?;
        let is_default: Option<bool> = certificate.read("IsDefault")?;
        if is_default.is_some() {
            return Err(ApiError::validation(
                "You cannot set the isDefault parameter for a certificate",
            ));
        }
        if !region.certificates.contains(arn) {
            return Err(ApiError::new(
                "CertificateNotFound",
                format!("Certificate '{arn}' not found"),
            ));
        }
        certificates.push(Certificate(arn.to_owned()));
    }
    Ok(certificates)
}

fn tls<'a>(region: &'a Region, arn: &str) -> Result<&'a Listener, ApiError> {
    let listener = listener(region, arn)?;
    if listener.protocol != "TLS" {
        return Err(ApiError::new(
            "OperationNotPermitted",
            "Certificates can only be added to or removed from TLS listeners",
        ));
    }
    Ok(listener)
}

/// `AddListenerCertificates`: one that is there is not added again.
pub fn add(region: &mut Region, c: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let arn = p.required("ListenerArn")?;
    let added = read(p, region)?;
    p.finish()?;
    if added.is_empty() {
        return Err(p.missing("Certificates"));
    }
    let load_balancer = &tls(region, arn)?.load_balancer;
    let mut of_all: BTreeSet<(&str, &Certificate)> = region
        .listeners_of(load_balancer)
        .flat_map(|listener| {
            listener
                .more_certificates
                .iter()
                .map(|certificate| (&*listener.arn, certificate))
        })
        .collect();
    of_all.extend(added.iter().map(|certificate| (arn, certificate)));
    if of_all.len() > c.quotas.certificates {
        return Err(ApiError::new(
            "TooManyCertificates",
            format!(
                "A load balancer can have {} certificates",
                c.quotas.certificates
            ),
        ));
    }
    listener_mut(region, arn)?
        .more_certificates
        .extend(added.iter().cloned());
    xml.members("Certificates", added, |x, certificate| {
        x.text("CertificateArn", certificate.0)
            .text("IsDefault", false);
    });
    Ok(())
}

/// `RemoveListenerCertificates`: one that is not there does not matter, the
/// default one can't be removed.
pub fn remove(region: &mut Region, _: &Context<'_>, p: &Params<'_>, _: &mut Xml) -> Done {
    let arn = p.required("ListenerArn")?;
    let mut removed = BTreeSet::new();
    for certificate in p.list("Certificates") {
        removed.insert(Certificate(
            certificate.required("CertificateArn")?.to_owned(),
        ));
    }
    p.finish()?;
    if removed.is_empty() {
        return Err(p.missing("Certificates"));
    }
    let listener = tls(region, arn)?;
    let is_default =
        |certificate: &&Certificate| listener.certificate.as_ref() == Some(*certificate);
    if let Some(certificate) = removed
        .iter()
        .filter(|certificate| !listener.more_certificates.contains(*certificate))
        .find(is_default)
    {
        return Err(ApiError::new(
            "OperationNotPermitted",
            format!(
                "The default certificate '{}' cannot be removed",
                certificate.0
            ),
        ));
    }
    listener_mut(region, arn)?
        .more_certificates
        .retain(|certificate| !removed.contains(certificate));
    Ok(())
}

/// `DescribeListenerCertificates`: the default one first.
pub fn describe(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let arn = p.required("ListenerArn")?;
    let paging = Paging::read(p)?;
    p.finish()?;
    let listener = listener(region, arn)?;
    let all: Vec<(&Certificate, bool)> = listener
        .certificate
        .iter()
        .map(|certificate| (certificate, true))
        .chain(
            listener
                .more_certificates
                .iter()
                .map(|certificate| (certificate, false)),
        )
        .collect();
    paging.write(xml, "Certificates", &all, |x, (certificate, is_default)| {
        x.text("CertificateArn", &certificate.0)
            .text("IsDefault", is_default);
    });
    Ok(())
}
