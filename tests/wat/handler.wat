;; A minimal handler. The tests replace the words in braces: the result of `describe`, the imports, additional items
;; of the core module, the number of its memory pages, and the body of `handle`. `handle` returns the address of its
;; result: 1024 is ok(none), 2048 is a permanent failure.
(component
  {imports}
  (core module $core
    {core}
    (memory (export "memory") {memory})
    (global $free (mut i32) (i32.const 32768))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $free (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
      (global.get $free)
      (global.set $free (i32.add (global.get $free) (local.get 3))))
    (func (export "describe") (result i32) {describe})
    (func $handle (export "handle") (param $item i32) (result i32) {handle})
    ;; The description at the address 8: name, version, types.
    (data (i32.const 8) "\40\00\00\00\03\00\00\00\50\00\00\00\05\00\00\00\00\02\00\00{count}\00\00\00")
    (data (i32.const 64) "wat")
    (data (i32.const 80) "1.2.3")
    ;; The types at the address 512: pointers and lengths, then the letters.
    (data (i32.const 512) "{types}")
    ;; The failure at the address 2048: permanent, code "told", message "no".
    (data (i32.const 2048) "\01\00\00\00\00\00\00\00\01\00\00\00\40\08\00\00\04\00\00\00\50\08\00\00\02\00\00\00")
    (data (i32.const 2112) "told")
    (data (i32.const 2128) "no"))
  (core instance $i (instantiate $core {with}))

  (type $item' (record
    (field "id" u64) (field "type" string) (field "idem-key" string) (field "cid" string)
    (field "saga" (option string)) (field "ordering-key" (option string)) (field "attempt" u32)
    (field "maybe-executed" bool) (field "payload" (list u8)) (field "content-type" string)
    (field "headers" (list (tuple string string))) (field "created-at" u64) (field "deadline" u64)
    (field "attributes" (list (tuple string string)))))
  (export $item "item" (type $item'))
  (type $class' (enum "retryable" "permanent" "defer"))
  (export $class "failure-class" (type $class'))
  (type $failure' (record
    (field "class" $class) (field "code" string) (field "message" string) (field "retry-after-ms" (option u64))))
  (export $failure "failure" (type $failure'))
  (type $description' (record (field "name" string) (field "version" string) (field "types" (list string))))
  (export $description "description" (type $description'))

  (func $describe (result $description)
    (canon lift (core func $i "describe") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (func $handle (param "item" $item) (result (result (option (list u8)) (error $failure)))
    (canon lift (core func $i "handle") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (instance $handler
    (export "description" (type $description))
    (export "item" (type $item))
    (export "failure" (type $failure))
    (export "describe" (func $describe))
    (export "handle" (func $handle)))
  (export "outbox:handler/handler@{version}" (instance $handler)))
