//! References as users and archives write them: refused, or read back as the same from either of their forms.
#![no_main]

use capsid_image::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(Reference::parse(&reference.to_string()).as_ref(), Ok(&reference));
        assert_eq!(Reference::parse(&reference.canonical()).as_ref(), Ok(&reference));
        assert!(reference.to_string().bytes().all(|byte| byte.is_ascii_graphic()));
    }
});
