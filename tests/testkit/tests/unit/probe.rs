use super::metric;

#[test]
fn metric_is_summed_over_its_labels() {
    let text = "# TYPE calls counter\ncalls_total{to=\"a\"} 2\ncalls_total{to=\"b\"} 3\ncalls 7\n";
    assert_eq!(metric(text, "calls_total", ""), Some(5.0));
    assert_eq!(metric(text, "calls_total", "to=\"b\""), Some(3.0));
    assert_eq!(metric(text, "call", ""), None);
}
