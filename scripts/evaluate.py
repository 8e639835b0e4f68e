"""How good is a model? Its pictures against real ones, and against their prompts, in figures and plots.

    python scripts/evaluate.py --model pocket --data runs/data/tiny-imagenet --num-images 2000
    python scripts/evaluate.py --concepts data/pocket/concepts.txt --num-images 200     # without real pictures
    python scripts/evaluate.py --data runs/data/tiny-imagenet --sweep guidance_scale=1,2,3,4
    python scripts/evaluate.py --concepts my/cars.txt --say red --say black            # do words do what they say?
    python scripts/evaluate.py --images my/pictures --data my/photographs               # drawn by whatever

Writes report.json, report.md, a contact sheet, and a curve a sweep. Distances, precision and recall are taken in the
features of the model's own CLIP, whose verdict flatters a model that was guided by it; --judge names another CLIP.
Both sides have as many pictures as are drawn, or half of the real ones. Published FIDs: --features inception --all-real
--num-images 50000 --rounds 10 (slow), with the --data and --split that they name. What --sweep can vary:
num_inference_steps, guidance_scale, sampler, num_samples, prior_num_inference_steps, prior_guidance_scale, prior_num_samples,
prior_sampler, upsampler_num_inference_steps, upsampler_noise_level, upsampler_grain, upsampler_blur.
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_sampling_options(parser)
    cli.add_dtype_option(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the first picture; the next take the next seeds")
    parser.add_argument("--data", metavar="DIR", help="real pictures: shards, or a plain folder of pictures")
    parser.add_argument("--split", default="test", help="of the shards (default: test)")
    parser.add_argument("--all-real", action="store_true",
                        help="compare with all real pictures, as published FIDs do; without the floor")  # fmt: skip
    parser.add_argument("--true-embeddings", action="store_true",
                        help="draw from embeddings of real pictures, not the prior's: the decoder alone")  # fmt: skip
    parser.add_argument("--concepts", metavar="FILE", help="draw these, one a line, instead of the data's classes")
    parser.add_argument("--images", metavar="DIR", help="judge the pictures in this folder instead of drawing some")
    parser.add_argument("--num-images", type=int, default=200, help="in all, evenly over the prompts (default 200)")
    parser.add_argument("--judge", metavar="CLIP", help="another CLIP: a model folder or an OpenCLIP name")
    parser.add_argument("--judge-pretrained", metavar="TAG", help="of its weights")
    parser.add_argument("--features", metavar="NAME", help="another CLIP for the distances, or inception")
    parser.add_argument("--features-pretrained", metavar="TAG", help="of its weights")
    parser.add_argument("--sweep", action="append", default=[], metavar="SETTING=V,V", help="measure at each value")
    parser.add_argument("--say", action="append", default=[], metavar="WORD",
                        help="how often is it seen with the word in the prompt, and without? red, black, dark, ...")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=100, help="of the bootstrap (default 100)")
    parser.add_argument("--no-prior", action="store_true", help="leave the figures of the prior out")
    parser.add_argument("--out", default="outputs/evaluation", metavar="DIR", help="default: outputs/evaluation")
    args = parser.parse_args(argv)

    from unclip.evaluation.evaluate import Request, evaluate

    evaluate(
        Request(
            model=args.model,
            images=args.images,
            data=args.data,
            split=args.split,
            all_real=args.all_real,
            true_embeddings=args.true_embeddings,
            concepts=args.concepts,
            num_images=args.num_images,
            seed=args.seed,
            settings=cli.sampling_settings(vars(args)),
            say=args.say,
            sweeps=args.sweep,
            judge=args.judge,
            judge_pretrained=args.judge_pretrained,
            features=args.features,
            features_pretrained=args.features_pretrained,
            rounds=args.rounds,
            with_prior=not args.no_prior,
            out=args.out,
            device=args.device,
            dtype=cli.dtype_of(args.dtype, args.device),
        )
    )


if __name__ == "__main__":
    cli.run(main)
