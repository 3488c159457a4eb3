import time, json
from running import *
def test_probe(clips, random_v1, random_v2, tiny, tmp_path):
    sets = manifests(tmp_path/"m", clips)
    for name, model in (("v1", random_v1.checkpoint.folder),("v2", random_v2.checkpoint.folder),("tiny","packaged:moonshine-tiny")):
        t=time.time()
        r = moonshine_lora("experiment","--model-id",model,*sets.flags(),*QUICK,*ANY_VERDICT,"--output-dir",tmp_path/name)
        print(name, time.time()-t, r.code, r.out, r.err)
        rec = json.loads((tmp_path/name/"record.json").read_text()) if (tmp_path/name/"record.json").exists() else {}
        print(rec.get("stages"), rec.get("error"))
        if rec.get("domain"):
            print([ (u["hypothesis"][:50],u["capped"]) for u in rec["domain"]["tuned"]["score"]["utterances"]], rec["training"])
        print(files_below(tmp_path/name))
