//! The Security Token Service, as far as SDKs' credential chains go.

use std::time::Duration;

use crate::actions::Context;
use crate::error::ApiError;
use crate::model::Region;
use crate::params::Params;
use crate::xml::Xml;

type Done = Result<(), ApiError>;

/// How long the credentials of a role last, unless asked otherwise.
const LIFETIME: Duration = Duration::from_hours(1);

/// `GetCallerIdentity`.
pub fn caller_identity(
    region: &mut Region,
    c: &Context<'_>,
    p: &Params<'_>,
    xml: &mut Xml,
) -> Done {
    p.finish()?;
    let account = &region.account;
    xml.text(
        "Arn",
        format!("arn:aws:iam::{account}:user/{}", c.access_key),
    )
    .text("UserId", c.access_key)
    .text("Account", account);
    Ok(())
}

/// `AssumeRoleWithWebIdentity`: any token will do. The access key holds the
/// role's account, and is how later calls are known to be of it.
pub fn assume_role(region: &mut Region, c: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let role = p.required("RoleArn")?.to_owned();
    let session = p.required("RoleSessionName")?.to_owned();
    let token = p.required("WebIdentityToken")?;
    let seconds: Option<u64> = p.read("DurationSeconds")?;
    p.finish()?;
    let parts: Vec<&str> = role.split(':').collect();
    let ["arn", _, "iam", "", account, name] = parts[..] else {
        return Err(ApiError::validation(format!("{role} is invalid")));
    };
    let (true, Some(name)) = (
        account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()),
        name.strip_prefix("role/"),
    ) else {
        return Err(ApiError::validation(format!("{role} is invalid")));
    };
    let subject = format!("{} bytes of token", token.len());
    let expires = c.now + seconds.map_or(LIFETIME, Duration::from_secs);
    let serial = &region.next_id()[..4];
    xml.node("Credentials", |x| {
        x.text(
            "AccessKeyId",
            format!("ASIA{account}{}", serial.to_uppercase()),
        )
        .text("SecretAccessKey", "secret")
        .text("SessionToken", "token")
        .text("Expiration", c.dates.text(expires));
    })
    .text("SubjectFromWebIdentityToken", subject)
    .node("AssumedRoleUser", |x| {
        x.text("AssumedRoleId", format!("AROA{account}:{session}"))
            .text(
                "Arn",
                format!("arn:aws:sts::{account}:assumed-role/{name}/{session}"),
            );
    });
    Ok(())
}
