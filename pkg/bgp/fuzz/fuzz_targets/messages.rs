//! Any bytes as messages of every type: no panic, and what is read of an OPEN,
//! a NOTIFICATION or a ROUTE-REFRESH is read again when it is written.
#![no_main]

use herald_bgp::{
    Attribute, Context, Frame, HEADER, MAX_EXTENDED_MESSAGE, MessageType, Notification, Open,
    RouteRefresh, Update,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((flags, rest)) = input.split_first() else {
        return;
    };
    let context = Context {
        four_octet_as: flags & 1 == 1,
        internal: flags & 2 == 2,
    };
    // The bodies as they are, and whatever is behind a good marker.
    body(MessageType::Open, rest, context);
    body(MessageType::Update, rest, context);
    body(MessageType::Notification, rest, context);
    body(MessageType::RouteRefresh, rest, context);
    let bytes = [&[0xff; 16], rest].concat();
    let mut rest = &bytes[..];
    while let Ok(Some(frame)) = Frame::parse(rest, MAX_EXTENDED_MESSAGE) {
        body(frame.kind, frame.body, context);
        rest = &rest[frame.length()..];
    }
});

fn body(kind: MessageType, bytes: &[u8], context: Context) {
    let mut again = Vec::new();
    match kind {
        MessageType::Open => {
            if let Ok(open) = Open::parse(bytes) {
                let _ = open.validate();
                open.encode(&mut again);
                let read = Open::parse(&again[HEADER..]).expect("we wrote it");
                assert!(bytes.len() > 3900 || read == open);
            }
        }
        MessageType::Update => {
            if let Ok(update) = Update::parse(bytes) {
                for raw in update.attributes().flatten() {
                    let _ = Attribute::parse(raw, context);
                }
                let _ = update.check(context);
            }
        }
        MessageType::Notification => {
            if let Some(notification) = Notification::parse(bytes) {
                let _ = (notification.to_string(), notification.communication());
                if bytes.len() < 4000 {
                    notification.encode(&mut again);
                    assert_eq!(again[HEADER..], *bytes);
                }
            }
        }
        MessageType::RouteRefresh => {
            if let Ok(Some(refresh)) = RouteRefresh::parse(bytes) {
                refresh.encode(&mut again);
                assert_eq!(RouteRefresh::parse(&again[HEADER..]), Ok(Some(refresh)));
            }
        }
        MessageType::Keepalive => {}
    }
}
