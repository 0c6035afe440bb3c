//! What others change is found by the background check, put right and told.

use std::time::Duration;

use herald_aws::budget::{Answer, Budget, Family, Need};
use herald_aws::{Aws, Tuning};
use herald_fakeaws::{Config, FakeAws, Region};
use herald_provider::{Desired, DynProvider, Outcome};

use crate::common::{
    annotate, budget, drive, nodes, present, provider_with, reconcile, service, settings, tuning,
};

const ROUND: Duration = Duration::from_millis(50);

fn checking(fake: &FakeAws) -> Aws {
    let tuning = Tuning {
        check_every: ROUND,
        reading_age: ROUND,
        ..tuning()
    };
    provider_with(fake, settings(), tuning, budget())
}

fn wish() -> Desired {
    let mut web = service("web");
    annotate(
        &mut web,
        "aws-load-balancer-attributes",
        "load_balancing.cross_zone.enabled=true",
    );
    annotate(
        &mut web,
        "aws-load-balancer-target-group-attributes",
        "deregistration_delay.timeout_seconds=30",
    );
    annotate(
        &mut web,
        "aws-load-balancer-additional-resource-tags",
        "team=web",
    );
    present(web, nodes(3))
}

/// All that Herald keeps, in words; ARNs of listeners change when they are made anew.
fn state(region: &Region) -> Vec<String> {
    let mut all = Vec::new();
    for is in region.load_balancers.values() {
        all.push(format!("{} {:?} {:?}", is.name, is.attributes, is.tags));
        all.push(format!("{:?}", is.security_groups));
    }
    for is in region.listeners.values() {
        all.push(format!("{} {} {:?}", is.port, is.protocol, is.attributes));
        for group in &is.forward.groups {
            let name = region.target_groups.get(&group.arn).map(|is| &is.name);
            all.push(format!("to {name:?}"));
        }
    }
    for is in region.target_groups.values() {
        let live = is
            .targets
            .iter()
            .filter(|(_, t)| t.deregistered_at.is_none());
        let targets: Vec<_> = live.map(|(key, _)| key).collect();
        all.push(format!("{} {:?} {:?}", is.name, is.attributes, is.tags));
        all.push(format!("{:?} {targets:?}", is.health_check));
    }
    for is in region.security_groups.values() {
        let mut rules: Vec<String> = is
            .ingress
            .iter()
            .map(|r| r.permission.to_string())
            .collect();
        rules.sort();
        all.push(format!("{} {:?} {rules:?}", is.name, is.tags));
    }
    all
}

/// Looks at the Service until nothing is to do.
async fn settle(fake: &FakeAws, aws: &Aws) {
    for _ in 0..200 {
        if let Outcome::Settled(status) = reconcile(aws, &wish()).await
            && status.reason == "Provisioned"
        {
            return;
        }
        fake.advance_to_next_event();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never settled");
}

/// Spoils something behind Herald's back, and waits a round. Returns what was told.
async fn spoilt(what: &str, spoil: impl FnOnce(&mut Region)) -> Vec<String> {
    let fake = FakeAws::start(Config::stopped()).await.unwrap();
    let aws = checking(&fake);
    settle(&fake, &aws).await;
    let before = fake.inspect(state);
    fake.edit(spoil);
    assert_ne!(fake.inspect(state), before, "{what} changes something");
    tokio::time::sleep(2 * ROUND).await;
    settle(&fake, &aws).await;
    assert_eq!(fake.inspect(state), before, "{what}");
    let news = DynProvider::news(&aws, "uid-web");
    assert!(DynProvider::news(&aws, "uid-web").is_empty(), "told once");
    // Nothing more is found.
    tokio::time::sleep(2 * ROUND).await;
    fake.clear_calls();
    settle(&fake, &aws).await;
    assert_eq!(fake.counts().writes, 0, "{what}");
    assert!(DynProvider::news(&aws, "uid-web").is_empty(), "{what}");
    news.into_iter()
        .map(|news| format!("{}: {}", news.reason, news.message))
        .collect()
}

fn told(news: &[String], mend: &str) {
    assert!(
        matches!(news, [one] if one.starts_with("Drift: ") && one.contains(mend)),
        "{mend} not in {news:?}"
    );
}

#[tokio::test]
async fn what_only_the_deep_check_sees_is_repaired_and_told() {
    told(
        &spoilt("a listener is deleted", |region| region.listeners.clear()).await,
        "create listener",
    );
    let attribute = |region: &mut Region| {
        let is = region.load_balancers.values_mut().next().unwrap();
        let key = "load_balancing.cross_zone.enabled";
        is.attributes.insert(key.into(), "false".into());
    };
    told(
        &spoilt("an attribute is changed", attribute).await,
        "cross_zone.enabled=true",
    );
    let group_attribute = |region: &mut Region| {
        let is = region.target_groups.values_mut().next().unwrap();
        let key = "deregistration_delay.timeout_seconds";
        is.attributes.insert(key.into(), "300".into());
    };
    told(
        &spoilt("a target group's attribute is changed", group_attribute).await,
        "timeout_seconds=30",
    );
    let listener_attribute = |region: &mut Region| {
        let is = region.listeners.values_mut().next().unwrap();
        let key = "tcp.idle_timeout.seconds";
        is.attributes.insert(key.into(), "6000".into());
    };
    told(
        &spoilt("a listener's attribute is changed", listener_attribute).await,
        "tcp.idle_timeout.seconds=350",
    );
    let target = |region: &mut Region| {
        let is = region.target_groups.values_mut().next().unwrap();
        let key = is.targets.keys().next().unwrap().clone();
        is.targets.remove(&key);
    };
    told(&spoilt("a target is taken out", target).await, "register");
    let tag = |region: &mut Region| {
        let is = region.target_groups.values_mut().next().unwrap();
        is.tags.remove("team");
    };
    told(&spoilt("a tag is taken off", tag).await, "set team=web");
}

#[tokio::test]
async fn what_the_reading_sees_is_repaired() {
    let rule = |region: &mut Region| {
        let mut groups = region.security_groups.values_mut();
        let group = groups.find(|group| group.name.starts_with("herald-web"));
        group.unwrap().ingress.clear();
    };
    spoilt("a rule is revoked", rule).await;
    let tag = |region: &mut Region| {
        let is = region.load_balancers.values_mut().next().unwrap();
        is.tags.insert("team".into(), "mine".into());
    };
    spoilt("a tag of the load balancer is changed", tag).await;
    let check = |region: &mut Region| {
        let is = region.target_groups.values_mut().next().unwrap();
        is.health_check.interval = 300;
    };
    spoilt("a health check is changed", check).await;
}

#[tokio::test]
async fn a_round_of_500_services_fits_into_its_hour_and_its_share() {
    let fake = FakeAws::start(Config::stopped()).await.unwrap();
    let tuning = Tuning {
        check_every: ROUND,
        ..tuning()
    };
    let aws = provider_with(&fake, settings(), tuning, budget());
    drive(&fake, &aws, &wish()).await;
    tokio::time::sleep(2 * ROUND).await;
    fake.clear_calls();
    let outcome = reconcile(&aws, &wish()).await;
    assert!(matches!(outcome, Outcome::Settled(_)), "{outcome:?}");
    let calls = fake.counts().total();
    assert!((5..=7).contains(&calls), "{calls}: {:?}", fake.counts());
    // As the budget gives it out, in an hour of its time.
    let begin = std::time::Instant::now();
    let mut budget = Budget::new(begin);
    let (mut now, mut went) = (begin, 0);
    while now < begin + Duration::from_hours(1) {
        match budget.ask(now, Family::ElbRead, Need::Background, "check") {
            Answer::Go => went += 1,
            Answer::Wait(wait) => now += wait,
        }
    }
    assert!(went >= 500 * calls, "{went} calls in an hour, {calls} each");
    let (_, rate) = Family::ElbRead.bucket();
    assert!(f64::from(u32::try_from(went).unwrap()) < 3600.0 * rate / 5.0);
}
