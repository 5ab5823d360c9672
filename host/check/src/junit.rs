//! Writes the reports of cases as `JUnit` XML.

use crate::suite::CaseReport;

/// The reports as `JUnit` XML, which build servers read.
pub fn junit(reports: &[CaseReport]) -> String {
    let failures = reports.iter().filter(|report| !report.is_passed()).count();
    let cases: String = reports.iter().map(junit_case).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuite name=\"outbox plugin test\" tests=\"{}\" failures=\"{failures}\">\n\
         {cases}</testsuite>\n",
        reports.len()
    )
}

fn junit_case(report: &CaseReport) -> String {
    let (name, seconds) = (escaped(&report.case), report.elapsed.as_secs_f64());
    let failure = if report.is_passed() {
        String::new()
    } else {
        let text = escaped(&report.differences.join("\n"));
        format!("    <failure message=\"not as expected\">{text}</failure>\n")
    };
    format!("  <testcase name=\"{name}\" time=\"{seconds:.3}\">\n{failure}  </testcase>\n")
}

fn escaped(text: &str) -> String {
    let is_allowed = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    let text: String = text.chars().filter(is_allowed).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
