//! Any bodies, cut from the input at newlines, as calls of ELBv2, EC2 and the
//! admin API: each is answered.
#![no_main]

use bytes::Bytes;
use herald_fakeaws::{Config, FakeAws};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let fake = FakeAws::detached(Config::quick());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for body in input.split(|byte| *byte == b'\n') {
        let Some((kind, body)) = body.split_first() else {
            continue;
        };
        let (path, scope) = match kind % 4 {
            0 => ("/", "elasticloadbalancing"),
            1 => ("/", "ec2"),
            2 => ("/", "sts"),
            // What would hang a caller is left out.
            _ => ("/_admin/fixtures", ""),
        };
        let request = http::Request::post(path)
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 Credential=k/d/us-east-1/{scope}/aws4_request, SignedHeaders=h, Signature=s"),
            )
            .body(Bytes::copy_from_slice(body))
            .unwrap();
        runtime.block_on(fake.handle(request)).unwrap();
    }
});
