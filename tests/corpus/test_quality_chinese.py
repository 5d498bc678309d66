"""Chinese rules keep poems, prose and manuals, and drop what pages of the web are full of."""

import pytest

from tests.corpus.box import poems
from trainer.config_steps import ChineseRepetitionSection, ChineseSection, QualitySection
from trainer.corpus.steps.boilerplate import boilerplate_rule
from trainer.corpus.steps.draft import Dropped
from trainer.corpus.steps.quality_chinese import chinese_lines, judge_chinese

WEB = QualitySection(chinese="web")
PROSE = """语料的清洗分为几个步骤：先从网页里取出正文，再修复乱码，然后按照语言分开，最后去掉重复的文档。
每一步都会记下丢弃了什么，以及为什么丢弃；这样一来，读者可以随时查看某一篇文档的去向。

有人问：为什么不把所有的规则都交给一个模型？因为规则可以检验，也可以解释，而模型往往说不出理由。
不过，规则并不是越多越好。每增加一条规则，都要在干净的文本上量一量，看它误伤了多少；误伤太多的规则，宁可不要。

训练之前，语料还要按散列值分成两份：一份用来训练，另一份用来验证。同一篇文档永远只在其中一份里出现，不会来回移动。
这件事看起来很小，却决定了验证的结果是否可信。"""


def rule_of(text: str, section: QualitySection = WEB) -> str | None:
    fate = judge_chinese(text, section)
    return fate.rule if fate else None


def test_prose_passes_unchanged() -> None:
    assert chinese_lines(PROSE, WEB) == (PROSE, {})
    assert judge_chinese(PROSE, WEB) is None


def test_classical_poems_survive() -> None:
    sample = poems()[::7]
    dropped = [fate for poem in sample if (fate := judge_chinese(poem, WEB))]
    assert len(dropped) <= 0.001 * len(sample), dropped
    assert all(chinese_lines(poem, WEB) == (poem, {}) for poem in sample)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("好的。", "chinese.han_chars"),
        (
            "This page is in English, 只有这几个字是中文，真的只有这几个字而已 and the rest of it is not at all Chinese, so "
            + "it goes on. " * 9
            + "",
            "chinese.han_share",
        ),
        ("".join(f"{char}★◆●■" for char in "这里有很多没有意义的符号混在文字中间"), "chinese.symbol_share"),
        ("这一段的标点都是半角的,看起来不太正式.读者会不习惯!你说是吗?我觉得是;就这样吧.", "chinese.full_width_punctuation"),
        ("手机电脑平板相机耳机音箱键盘鼠标显示器打印机路由器充电器数据线保护壳贴膜支架" * 4, "chinese.chars_per_mark"),
        (
            "\n".join(f"今日新闻，标题第{n}条来了" for n in "一二三四五六七八九十"),
            "chinese.punctuated_lines",
        ),
        (
            "\n".join(["新闻", "体育", "娱乐", "财经", "科技", "汽车", "房产"]) + "\n这里只有一句话，而且很短。",
            "chinese.short_lines",
        ),
        ("\n".join(f"这是第{n}条新闻的摘要，后面还有内容，请点开看…" for n in "一二三四五六七"), "chinese.ellipsis_lines"),
        ("\n".join(f"· 这是清单里的第{n}项，说的是一件小事。" for n in "一二三四五六七"), "chinese.bullet_lines"),
        (PROSE + "\n重复的一行，出现了很多次。" * 8, "chinese.duplicate_lines"),
        (PROSE.replace("\n", "") + "加微信领，" * 60, "chinese.top_4_gram"),
    ],
)
def test_each_rule_drops_what_it_is_for(text: str, rule: str) -> None:
    assert rule_of(text) == rule


def test_a_reason_holds_the_value_and_its_threshold() -> None:
    assert judge_chinese("好的。", WEB) == Dropped("chinese.han_chars", "number of Han characters 2 is below 16")


BOILERPLATE = {
    "navigation": ["首页 > 返回列表", "上一篇", "上一页 1 2 3 4 下一页", "友情链接", "网站地图 | 联系我们 | 关于我们"],
    "sharing": ["分享到：微信 新浪微博 QQ空间", "扫一扫 关注公众号", "收藏 | 打印 | 关闭"],
    "account": ["登录 | 注册", "立即注册", "用户名 密码 忘记密码", "发表评论"],
    "advertising": ["立即抢购", "免费咨询 在线客服", "广告 推广"],
    "label": [
        *("责任编辑：张三", "来源：新华网", "（责任编辑：李四）", "发布时间：2024-05-01 10:20", "浏览次数: 1024"),
        *("上一篇：一个标题", "关键词：语料 清洗"),
    ],
    "notice": [
        *("京ICP备12345678号-1", "京公网安备 11010502030123号", "版权所有 © 2024 某某公司", "未经授权，不得转载"),
        *("Copyright © 2001-2024 All Rights Reserved", "本站部分内容来自互联网，如有侵权请联系删除"),
        "增值电信业务经营许可证：京B2-20240001",
    ],
}


@pytest.mark.parametrize(("kind", "line"), [(kind, line) for kind, lines in BOILERPLATE.items() for line in lines])
def test_boilerplate_lines_are_known_by_kind(kind: str, line: str) -> None:
    assert boilerplate_rule(line) == kind


@pytest.mark.parametrize(
    "line",
    [
        "登录系统之后，请点击首页上的注册按钮。",
        "上一篇文章介绍了分词，这一篇介绍打包。",
        "登录",
        "目录",
        "密码",
        "第一章 搜索与排序",
        "他把文件打印出来，放进信封，寄给了编辑。",
        "作者：李白",
        "来源：",
        "版权所有者可以授权他人使用。",
        "微信支付的接入步骤",
        "床前明月光，",
        "",
    ],
)
def test_sentences_headings_and_authors_are_no_boilerplate(line: str) -> None:
    assert boilerplate_rule(line) is None


def test_lines_are_removed_and_counted_by_kind_and_code_stays() -> None:
    page = "首页 | 登录 | 注册\n" + PROSE + "\n    登录 | 注册\n责任编辑：张三\n京ICP备12345678号\n上一篇：无"
    text, removed = chinese_lines(page, QualitySection(chinese="web", keep_code=False))
    assert text == PROSE
    assert dict(removed) == {"chinese.account": 2, "chinese.label": 2, "chinese.notice": 1}
    fenced = PROSE + "\n```\n首页 | 登录 | 注册\nprint('版权所有')\n```"
    assert chinese_lines(fenced, WEB) == (fenced, {})


def test_a_manual_with_code_is_judged_by_its_prose() -> None:
    code = "\n".join(f'    printf("%d %s {{}}\\n", x[{n}], argv[{n}]); /* ### */' for n in range(40))
    manual = PROSE + "\n\n" + code + "\n\n运行之后，屏幕上会显示每个参数的值。"
    assert rule_of(manual) is None
    assert rule_of(manual, QualitySection(chinese="web", keep_code=False)) is not None


def test_every_rule_can_be_turned_off() -> None:
    none = {name: None for name, field in ChineseSection.model_fields.items() if name not in ("boilerplate", "repetition")}
    repetition = {name: () if name.endswith("ngrams") else None for name in ChineseRepetitionSection.model_fields}
    off = QualitySection(
        chinese="web", han=ChineseSection(boilerplate=False, repetition=ChineseRepetitionSection(**repetition), **none)
    )
    for text in ("", "x", "★" * 99, "同一行\n" * 99, "首页 | 登录"):
        assert judge_chinese(text, off) is None
        assert chinese_lines(text, off) == (text, {})
