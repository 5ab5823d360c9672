# Prints each requirement with its result. Declined requirements come from the table in ARCHITECTURE.md. The other
# results come from the output of the test harness, where the test names begin with the requirements' numbers.

/^\| [A-Z]-[0-9]+ \| / {
    split($0, cells, " [|] ")
    sub(/^\| /, "", cells[1])
    sub(/ \|$/, "", cells[2])
    printf "%-5s declined        %s\n", cells[1], cells[2]
}

/^test conformance::.* \.\.\. / {
    count = split($2, path, "::")
    result = $NF == "ok" ? "pass" : "FAIL"
    words = split(path[count], word, "_")
    for (n = 1; n <= words && word[n] ~ /^[a-z][0-9]+$/; n++) {
        number = toupper(substr(word[n], 1, 1)) "-" substr(word[n], 2)
        title = path[count]
        gsub("_", " ", title)
        sub(/^([a-z][0-9]+ )+/, "", title)
        printf "%-5s %-6s %-8s %s\n", number, result, path[count - 1], title
    }
}
